from __future__ import annotations

import json
import random
import re

import pytest

from harness.data import Data
from tasks.api import TaskError
from tasks.react import calls, first_call, normalised, react_prompt
from tasks.rouge import rouge_l
from tasks.tool_use import FALSE_POSITIVE, INPUT, SELECTION, ToolUse
from tasks.tool_use_bfcl import ToolUseBFCL, accepted, candidates, topics
from tests.tasks.scripted import Says, judge

GOLD = 'Thought: I look it up.\nAction: search\nAction Input: {"query": "tides", "limit": 3}\nObservation: ...'


def samples_of(task: ToolUse, positive=None, negative=None):
    positive = [{"prompt": "Question: tides?", "response": GOLD}] if positive is None else positive
    negative = (
        [{"prompt": "Question: 1+1?", "response": "Thought: easy.\nFinal Answer: 2"}] if negative is None else negative
    )
    return task.samples(lambda source: positive if source is task.positive else negative)


def scored(reply: str, place: int = 0):
    task = ToolUse()
    return judge(task, samples_of(task)[place], Says(reply))


def test_gold_has_full_marks():
    assert scored(GOLD).scores == {SELECTION: 1.0, INPUT: 100.0}
    assert scored("Thought: easy.\nFinal Answer: 2", 1).scores == {FALSE_POSITIVE: 0.0}


@pytest.mark.parametrize(
    ("reply", "selection", "answer"),
    [
        ("Thought: x\nAction: SEARCH\nAction Input: {}", 1.0, "SEARCH"),  # without regard to case
        ("Thought: x\nAction: weather\nAction Input: {}\nAction: search", 0.0, "weather"),  # the first one counts
        ("Action: search\nAction Input: {}", 0.0, None),  # the script wants a line before it
        ("Thought: x\nAction:search\nAction Input: {}", 0.0, None),  # and a blank behind the colon
        ("Final Answer: tides", 0.0, None),
        ("Thought: x\nAction: search", 1.0, "search"),
    ],
)
def test_selection(reply, selection, answer):
    verdict = scored(reply)
    assert (verdict.scores[SELECTION], verdict.answer) == (selection, answer)
    assert verdict.correct is (selection == 1.0)


def test_input_counts_for_the_wrong_tool_too_and_not_for_broken_json():
    wrong = "Thought: x\nAction: weather\nAction Input: {limit: 3, query: 'tides'}\nObservation: {\"query\": 1}"
    assert scored(wrong).scores == {SELECTION: 0.0, INPUT: 100.0}  # JSON5, another order, cut at the observation
    assert scored("Thought: x\nAction: search\nAction Input: tides").scores == {SELECTION: 1.0, INPUT: 0.0}
    assert scored("no call").scores[INPUT] == 0.0


def test_input_by_hand():
    # pieces of {"limit": 3, "query": "tides"} and {"query": "tides"}: the second is a subsequence of the first's
    gold = [piece for piece in re.findall(r"\w+|\W", '{"limit": 3, "query": "tides"}') if piece.strip()]
    reply = [piece for piece in re.findall(r"\w+|\W", '{"query": "tides"}') if piece.strip()]
    precision, recall = 1.0, len(reply) / len(gold)
    expected = 200 * precision * recall / (precision + recall)
    found = scored('Thought: x\nAction: search\nAction Input: {"query": "tides"}').scores[INPUT]
    assert found == pytest.approx(expected)


def test_a_call_without_need_is_an_error():
    verdict = scored("Thought: x\nAction: search\nAction Input: {}", 1)
    assert verdict.scores == {FALSE_POSITIVE: 1.0} and not verdict.correct
    assert scored("Action: search", 1).correct


def test_shuffled_gold_is_low():
    task = ToolUse()
    rows = [
        {"prompt": f"q{n}", "response": f'Thought: x\nAction: tool{n}\nAction Input: {{"word{n}": "value{n}"}}'}
        for n in range(20)
    ]
    samples = samples_of(task, rows)[:20]
    turned = [
        judge(task, sample, Says(other.gold)) for sample, other in zip(samples, samples[1:] + samples[:1], strict=True)
    ]
    assert sum(verdict.scores[SELECTION] for verdict in turned) == 0
    assert sum(verdict.scores[INPUT] for verdict in turned) / 20 < 80


def test_nothing_stops_the_reply_and_the_prompt_is_the_files():
    task, model = ToolUse(), Says(GOLD)
    judge(task, samples_of(task)[0], model)
    prompt, decoding = model.asked[0]
    assert prompt.messages == (("system", "You are a helpful assistant."), ("user", "Question: tides?"))
    assert decoding.stop == () and decoding.temperature == 0


@pytest.mark.parametrize(
    ("positive", "said"),
    [
        ([{"response": GOLD}], "item 0: field 'prompt' is missing"),
        ([{"prompt": "q", "response": "Final Answer: 3"}], "field 'response' calls no tool"),
        ([{"prompt": "q", "response": 3}], "field 'response' is int"),
        ([], "has no rows"),
    ],
)
def test_bad_data(positive, said):
    with pytest.raises(TaskError, match=said) as error:
        samples_of(ToolUse(), positive)
    assert "\n" not in str(error.value) and "--data-dir" in str(error.value)


def test_normalised():
    assert normalised("{b: 1, 'a': [2,],}") == '{"a": [2], "b": 1}'
    assert normalised('{"名": "值"}') == '{"名": "值"}'
    assert normalised("[" * 100_000) == "" and normalised("") == "" and normalised("{") == ""


def test_reading_a_call():
    call = first_call('Thought: a\nAction: one \nAction Input: {"x": 1}\nObservation: y\nAction: two\nAction Input: 3')
    assert (call.action, call.arguments) == ("one", '{"x": 1}')
    assert calls(GOLD) and not calls("Action: x")


def test_rouge_is_the_packages():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")

    class Blanks:
        def tokenize(self, text):
            return text.split()

    theirs = scorer.RougeScorer(["rougeL"], tokenizer=Blanks())
    draw = random.Random(5)
    for _ in range(300):
        one, other = ([draw.choice("abcde") for _ in range(draw.randrange(12))] for _ in range(2))
        expected = theirs.score(" ".join(one), " ".join(other))["rougeL"].fmeasure
        assert rouge_l(one, other) == pytest.approx(expected), (one, other)


# --- items from BFCL -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bfcl():
    task, data = ToolUseBFCL(), Data()
    if any(data.local(source) is None for source in task.sources()):
        pytest.skip("BFCL's questions are not in the cache: run `harness run --task tool-use-bfcl` once")
    return task.samples(data), data


def test_bfcl_items(bfcl):
    samples, _ = bfcl
    assert len(samples) == len({sample.id for sample in samples}) == 840
    assert sum(sample.group == "positive" for sample in samples) == 600
    for sample in samples:
        (names,) = re.findall(r"should be one of \[(.*)\]\n", sample.fields["prompt"])
        assert len(set(names.split(","))) == 5
        if sample.group == "positive":
            assert first_call(sample.gold).action in names.split(",") and first_call(sample.gold).arguments


def test_bfcl_first_prompt_rendered_independently(bfcl):
    samples, data = bfcl
    task = ToolUseBFCL()
    row = data(task.simple)[0]
    text = samples[0].fields["prompt"]
    assert text.startswith(
        "Answer the following questions as best you can. You have access to the following tools:\n\n"
    )
    assert text.endswith(f"\n\nBegin!\n\nQuestion: {row['question'][0][0]['content']}")
    function = row["function"][0]
    (line,) = [line for line in text.split("\n") if line.startswith(function["name"] + ": ")]
    name = function["name"]
    opening = (
        f"{name}: Call this tool to interact with the {name} API. What is the {name} API useful for? "
        f"{function['description']} Parameters: "
    )
    ending = " Format the arguments as a JSON object."
    assert line.startswith(opening) and line.endswith(ending)
    parameters = json.loads(line[len(opening) : -len(ending)])
    assert [one["name"] for one in parameters] == list(function["parameters"]["properties"])
    assert {one["name"] for one in parameters if one["required"]} == set(function["parameters"]["required"])


def test_bfcl_gold_has_full_marks_and_is_shuffled_low(bfcl):
    samples, _ = bfcl
    task = ToolUseBFCL()
    some = [sample for sample in samples if sample.group == "positive"][::12]
    right = [judge(task, sample, Says(sample.gold)).scores for sample in some]
    assert all(scores == {SELECTION: 1.0, INPUT: pytest.approx(100.0)} for scores in right)
    turned = zip(some, some[1:] + some[:1], strict=True)
    wrong = [judge(task, sample, Says(other.gold)).scores for sample, other in turned]
    assert sum(scores[SELECTION] for scores in wrong) <= 1
    assert sum(scores[INPUT] for scores in wrong) / len(wrong) < 60


def test_candidates_do_not_depend_on_other_items_order_and_are_not_near_the_question():
    pool = {
        name: {"name": name}
        for name in ("area_of_circle", "bookFlight", "get_weather", "find_book", "play_song", "cook")
    }
    own = [{"name": "triangleArea"}]
    chosen = [one["name"] for one in candidates("x", "Which books are about cooking?", own, pool)]
    assert set(chosen) == {"triangleArea", "get_weather", "play_song"}  # circle's area, books and cooks are near
    assert chosen == [one["name"] for one in candidates("x", "Which books are about cooking?", own, pool)]


def test_words_and_accepted_values():
    assert topics("get_NBA.playerStats") == {"player", "stat"}
    assert accepted({"a": [5, 6], "b": ["", 2], "c": [{"d": [1], "e": ["", 2]}], "f": [[{"g": ["x"]}]]}) == {
        "a": 5,
        "c": {"d": 1},
        "f": [{"g": "x"}],
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": "text"}, "field 'question' is not one user turn"),
        ({"function": []}, "field 'function' is not a list"),
        ({"function": [{"name": "f"}]}, "field 'function' is not a list of functions"),
        ({"id": None}, "field 'id' is missing"),
    ],
)
def test_bad_bfcl_rows(changes, said):
    function = {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {}}}
    row = {"id": "i", "question": [[{"role": "user", "content": "q"}]], "function": [function]} | changes
    answers = [{"id": "i", "ground_truth": [{"f": {}}]}]
    with pytest.raises(TaskError, match=said):
        ToolUseBFCL().samples(lambda source: answers if "answers" in source.name else [row])


def test_an_answer_that_is_missing():
    function = {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {}}}
    row = {"id": "i", "question": [[{"role": "user", "content": "q"}]], "function": [function]}
    with pytest.raises(TaskError, match="item i: field 'ground_truth' is not one call"):
        ToolUseBFCL().samples(lambda source: [{"id": "other"}] if "answers" in source.name else [row])


def test_react_prompt_by_hand():
    tool = {"name_for_model": "m", "name_for_human": "h", "description_for_model": "d", "parameters": [{"name": "城"}]}
    text = react_prompt("why {x}?", [tool, tool])
    described = (
        "m: Call this tool to interact with the h API. What is the h API useful for? d "
        'Parameters: [{"name": "城"}] Format the arguments as a JSON object.'
    )
    assert f"following tools:\n\n{described}\n\n{described}\n\nUse the following format:" in text
    assert "one of [m,m]\n" in text and text.endswith("Begin!\n\nQuestion: why {x}?")
