"""Hand-worked cases of transformers 4.32's rules; where the data is, gold answers through the real sandbox."""

from __future__ import annotations

import asyncio

import pytest

from tasks.api import Chat, Options, Reply, TaskError
from tasks.hf_agent import CODE, SELECTION, USED, HFAgentChat, HFAgentRun, agreement, respelt
from tasks.hf_agent_interpreter import State, among, equal, evaluate, interpret
from tests.tasks.scripted import Ends, real_sandbox, rows_of

TASK = {
    "task": ["Say what is in `image` in Greek.", "Describe `image` in Greek."],
    "inputs": ["image"],
    "answer": [
        "translator(image_captioner(image), src_lang='English', tgt_lang='Greek')",
        "translator(image_qa(image, question='What is it?'), src_lang='English', tgt_lang='Greek')",
    ],
}
CHAT = {
    "turns": [
        {
            "task": ["Describe `image`.", "What is in `image`?"],
            "inputs": ["image"],
            "answer": "told=image_captioner(image)",
        },
        {
            "task": ["In Greek.", "Say it in Greek."],
            "inputs": [],
            "answer": "translator(told, src_lang='English', tgt_lang='Greek')",
        },
    ]
}


class Script:
    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    async def generate(self, prompt, decoding):
        self.asked.append((prompt, decoding))
        return Reply(text=self.replies.pop(0), finish="stop", logprobs=())


class Box:
    """The real sandbox under the interface of a task."""

    def __init__(self) -> None:
        self.box = real_sandbox()

    async def check(self, check, *, cpu_seconds):
        return self.box.check(check.solution, check.tests, check.names, check.setup)


def judge(task, sample, sandbox, *replies):
    return asyncio.run(task.judge(sample, Script(*replies), sandbox))


def run_reply(tools: str, code: str) -> str:
    return f"tools: {tools}.\n\nAnswer:\n```py\n{code}\n```"


def chat_reply(tools: str, code: str) -> str:
    return f"I use {tools}.\n\n```py\n{code}\n```"


@pytest.fixture(scope="module")
def box():
    return Box()


def run_sample(place=0, **changes):
    task = HFAgentRun()
    return task, task.samples(lambda source: [TASK | changes])[place]


def test_samples_are_wordings_and_steps():
    assert [sample.id for sample in HFAgentRun().samples(lambda source: [TASK])] == [
        "hf-agent-run/0/0",
        "hf-agent-run/0/1",
    ]
    found = HFAgentChat().samples(lambda source: [CHAT])
    assert [sample.id for sample in found] == [f"hf-agent-chat/0/{a}/{b}" for a in (0, 1) for b in (0, 1)]
    assert [turn["task"] for turn in found[3].fields["turns"]] == ["What is in `image`?", "Say it in Greek."]


def test_official_numbers_of_items():
    assert len(HFAgentRun().samples(rows_of("hf_agent/evaluation_tasks.jsonl"))) == 27
    assert len(HFAgentChat().samples(rows_of("hf_agent/evaluation_chats.jsonl"))) == 47


@pytest.mark.parametrize(
    ("found", "wanted", "points"),
    [("ab", "ab", 100), ("a", "ab", 75), ("abc", "ab", 75), ("ac", "ab", 50), ("", "abcde", 0), ("xyz", "ab", 0)],
)
def test_agreement(found, wanted, points):
    assert agreement(set(found), set(wanted)) == points


def test_full_marks_by_either_answer(box):
    task, sample = run_sample()
    for answer, name in zip(TASK["answer"], ("image_captioner", "image_qa"), strict=True):
        verdict = judge(task, sample, box, run_reply(f"`{name}`, `translator`", f"x = {answer}\nprint(x)"))
        assert verdict.scores == {SELECTION: 100, USED: 100, CODE: 100} and verdict.correct


@pytest.mark.parametrize(
    ("code", "points"),
    [
        (TASK["answer"][0], 100),
        (f"{{'caption': image, 'answer': {TASK['answer'][0]}}}", 75),
        ("image_captioner(image)", 30),
        ("1/0", 30),
        ("while True: pass", 30),
        ("not Python (", 30),
        (f"{TASK['answer'][0]}\nimport os", 100),  # stops there, with what it has
        (f"{TASK['answer'][0]}\nimage_captioner('a cat')", 30),  # an error leaves nothing
        ("class Any:\n    def __eq__(self, other): return True\nAny()", 30),
        ("().__class__.__base__.__subclasses__()", 30),
    ],
)
def test_points_of_code(box, code, points):
    task, sample = run_sample()
    assert judge(task, sample, box, run_reply("`translator`", code)).scores[CODE] == points


def test_tools_are_read_from_backticks_and_from_the_code(box):
    task, sample = run_sample()
    verdict = judge(task, sample, box, run_reply("`translator` and image_captioner", "translator_image_captioner = 1"))
    assert verdict.scores == {SELECTION: 75, USED: 100, CODE: 30}


def test_without_code_the_floor_remains():
    task, sample = run_sample()
    sandbox = Ends("passed")
    verdict = judge(task, sample, sandbox, "tools: `translator` and `image_captioner`.")
    assert verdict.scores == {SELECTION: 100, USED: 50, CODE: 30} and verdict.outcome == "no_code"
    assert sandbox.ran == []


def test_run_prompt_is_one_user_turn_without_the_agents_speakers():
    task, sample = run_sample(task="Say Human: or Assistant: to `image`.")
    prompt = task.prompt(sample)
    assert isinstance(prompt, Chat) and prompt.messages[0] == ("system", "You are a helpful assistant.")
    text = prompt.messages[1][1]
    assert text.endswith("Task: Say _HUMAN_: or _ASSISTANT_: to `image`.\n\nI will use the following")
    assert text.count("\n- ") == 14 and "<<" not in text


def test_a_chat_goes_on_from_what_was_said(box):
    task = HFAgentChat()
    sample = task.samples(lambda source: [CHAT])[1]
    first = chat_reply("`image_captioner`", "words = image_captioner(image)")
    second = chat_reply("`translator`", "translator(words, src_lang='English', tgt_lang='Greek')")
    model = Script(first, second + " _HUMAN_:")
    verdict = asyncio.run(task.judge(sample, model, box))
    assert verdict.scores == {SELECTION: 100, USED: 100, CODE: 100}
    texts = [prompt.messages[1][1] for prompt, _ in model.asked]
    assert texts[0].endswith("\n=====\n\n_HUMAN_: Describe `image`.\n\n_ASSISTANT_: ")
    assert texts[1] == texts[0] + first + "\n\n_HUMAN_: In Greek.\n\n_ASSISTANT_: "
    assert model.asked[0][1].stop == ()


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        ("I look.\n\n```py\na\nb\n```\nDone.\n```\nc\n```", ("I look.", "a\nb")),
        ("I look.\n```\nopen", ("I look.", "open")),
        ("I look.", ("I look.", "")),
    ],
)
def test_parts_of_a_chat_reply(reply, parts):
    assert HFAgentChat().parts(reply) == parts


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        ("`a`.\nAnswer:\n```python\nx\n```", ("I will use the following `a`.", "x")),
        ("`a`. Answer: x\ny", ("I will use the following `a`.", "x\ny")),
        ("`a`. Answer: x\nAnswer: y", ("I will use the following `a`.", "x")),
        ("`a`.", ("I will use the following `a`.", "")),
    ],
)
def test_parts_of_a_run_reply(reply, parts):
    assert HFAgentRun().parts(reply) == parts


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("summarizer(text)", "[summary of T]"),
        ("x = summarizer(text)", "[summary of T]"),
        ("summarizer(tekst)", "[summary of T]"),  # the name most like it
        ("summarizer = summarizer(text)\nsummarizer(summarizer)", "[summary of [summary of T]]"),
        ("print(text)", None),
        ("summarizer(text)\nprint(text)", "[summary of T]"),
        ("summarizer(text)\nlen(text)", "[summary of T]"),  # not a tool: stops
        ("summarizer(text)\nqqq", "[summary of T]"),  # no such variable: stops
        ("summarizer(text)\ntext.upper()", "[summary of T]"),
        ("summarizer(text)\ntranscriber(text)", None),  # an error of a tool
        ("summarizer(text, 1)", None),
        ("for i in [1, 2]:\n    x = i", 2),
        ("for p in ['a', 'b']:\n    print(p)\nsummarizer(text)", "[summary of T]"),  # every time round
        ("for p in ['a', 'b']:\n    x = summarizer(text_reader(p))\nx", "[summary of [sound of b]]"),
        ("for a in [1, 2]:\n    for b in [3, 4]:\n        x = str(b)\nx", "4"),
        ("if text == 'T':\n    1\nelse:\n    2", 1),
        ("if text:\n    1", None),
        ("f'{text}!'", "T!"),
        ("{'a': [text][0]}", {"a": "T"}),
        ("text + text", None),
        ("a, b = [1, 2]", None),
        ("", None),
        ("(", None),
    ],
)
def test_interpreter(code, result):
    assert evaluate(code, State(text="T")) == result


def test_state_lasts_over_the_steps():
    codes = ["x = summarizer(text)", "text_reader(x)", "transcriber(y)\n1/0", "x"]
    assert interpret(codes[:2], [{"text": "T"}, {}]) == "[sound of [summary of T]]"
    assert interpret(codes, [{"text": "T"}, {}, {}, {}]) == "[summary of T]"


def test_comparison_of_results():
    assert equal("a", "a") and not equal(None, None) and not equal("a", "b")
    assert among({"x": "a"}, "a") and not among("a", "a") and not among({"a": "b"}, "a")


def test_respelling():
    assert respelt("Human: a Assistant: b") == "_HUMAN_: a _ASSISTANT_: b"
    assert respelt(respelt("Human: a Assistant: b"), back=True) == "Human: a Assistant: b"


@pytest.mark.parametrize("mode", [HFAgentRun, HFAgentChat])
def test_gold_has_full_marks_and_shuffled_gold_does_not(mode, box):
    task = mode()
    name = "tasks" if mode is HFAgentRun else "chats"
    samples = task.samples(rows_of(f"hf_agent/evaluation_{name}.jsonl"))

    def replies(sample, shift=0):
        made = []
        for turn in sample.fields["turns"]:
            code = turn["answer"][0] if not shift else "image_segmenter(image, prompt)"
            named = ", ".join(f"`{tool}`" for tool in TOOL_NAMES if tool in code)
            made.append(run_reply(named, code) if mode is HFAgentRun else chat_reply(named, code))
        return made

    for sample in samples:
        assert judge(task, sample, box, *replies(sample)).scores == {SELECTION: 100, USED: 100, CODE: 100}, sample.id
    for sample in samples[::6]:
        assert judge(task, sample, box, *replies(sample, 1)).scores[CODE] == 30


TOOL_NAMES = (
    *("text_classifier", "translator", "text_reader", "summarizer", "transcriber", "image_generator"),
    *("image_captioner", "image_transformer", "text_qa", "text_downloader", "image_qa", "video_generator"),
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": 3}, "field 'task' is neither a text nor a list of texts"),
        ({"answer": []}, "field 'answer' is neither"),
        ({"answer": None}, "field 'answer' is missing"),
        ({"inputs": 3}, "field 'inputs' is neither"),
        ({"inputs": {"a": 1}}, "field 'inputs' is neither"),
    ],
)
def test_bad_rows(changes, said):
    with pytest.raises(TaskError, match=said):
        HFAgentRun().samples(lambda source: [TASK | changes])


def test_bad_chats():
    with pytest.raises(TaskError, match="field 'turns' is not a list of steps"):
        HFAgentChat().samples(lambda source: [{"turns": []}])
    uneven = {"turns": [CHAT["turns"][0], CHAT["turns"][1] | {"task": "In Greek."}]}
    with pytest.raises(TaskError, match="another number of wordings"):
        HFAgentChat().samples(lambda source: [uneven])


def test_a_template_of_the_users(tmp_path):
    file = tmp_path / "run_prompt_template.txt"
    file.write_text("Tools:\n<<all_tools>>\nDo: <<prompt>>\nI will use the following")
    task = HFAgentRun(Options(shots_file=file))
    text = task.prompt(task.samples(lambda source: [TASK])[0]).messages[1][1]
    assert text.startswith("Tools:\n- document_qa: ") and text.endswith(
        f"Do: {TASK['task'][0]}\nI will use the following"
    )
    file.write_text("<<all_tools>>")
    with pytest.raises(TaskError, match="has no <<prompt>>"):
        task.samples(lambda source: [TASK])
    with pytest.raises(TaskError, match=r"gone\.txt: cannot be read"):
        HFAgentRun(Options(shots_file=tmp_path / "gone.txt")).samples(lambda source: [TASK])
