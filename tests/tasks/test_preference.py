from __future__ import annotations

import pytest

from tasks.api import TaskError
from tasks.preference import PER_TOKEN, SETS, Preference, part
from tests.tasks.scripted import Says, judge, rows_of

BEFORE = "\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: A tip?\n\nAssistant:"
ROW = {"chosen": BEFORE + " Drink water.", "rejected": BEFORE + " No."}


def samples_of(*rows):
    return Preference().samples(lambda source: rows if "helpful-base" in source.name else [ROW])


def test_a_pair_parts_at_its_last_answers():
    sample = samples_of(ROW)[0]
    assert Preference().prompt(sample).messages == (("user", "Hi."), ("assistant", "Hello!"), ("user", "A tip?"))
    assert (sample.fields["chosen"], sample.fields["rejected"]) == ("Drink water.", "No.")
    assert (sample.id, sample.group) == ("preference/helpful-base/0", "helpful-base")


def test_what_follows_the_first_difference_belongs_to_the_answer():
    longer = BEFORE + " Sleep.\n\nHuman: Why?\n\nAssistant: It helps."
    before, chosen, rejected = part(BEFORE + " No.", longer)
    assert len(before) == 3 and chosen == "No."
    assert rejected == "Sleep.\n\nHuman: Why?\n\nAssistant: It helps."


def test_pairs_with_nothing_to_prefer_are_left_out():
    same = {"chosen": ROW["chosen"], "rejected": ROW["chosen"] + " "}
    empty = {"chosen": BEFORE, "rejected": BEFORE + " No."}
    assert [sample.id for sample in samples_of(same, ROW, empty)][:2] == [
        "preference/helpful-base/1",
        "preference/helpful-online/0",
    ]


@pytest.mark.parametrize(
    ("scores", "right", "per_token"),
    [
        ([-1.0, -2.0], True, 1.0),
        ([-3.0, -2.0], False, 1.0),  # "Drink water." has 4 pieces, "No." has 2: -0.75 and -1
        ([-9.0, -2.0], False, 0.0),
        ([-2.0, -2.0], False, 1.0),  # an equal sum is not right
    ],
)
def test_both_readings_of_likelihood(scores, right, per_token):
    model = Says(scores=scores)
    verdict = judge(Preference(), samples_of(ROW)[0], model)
    assert verdict.correct is right and verdict.scores == {PER_TOKEN: per_token}
    assert verdict.answer == ("chosen" if right else "rejected")
    assert verdict.choice_logprobs == dict(zip(("chosen", "rejected"), scores, strict=True))
    assert model.asked[0][1] == ["Drink water.", "No."]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": "x"}, "item 0: the two|field 'rejected' is missing"),
        ({"chosen": "no turns", "rejected": "at all"}, "do not part at an answer"),
        ({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: b"}, "do not part at an answer"),
        ({"chosen": 3, "rejected": "x"}, "field 'chosen' is int"),
    ],
)
def test_bad_rows(row, said):
    with pytest.raises(TaskError, match=said) as error:
        samples_of(row)
    assert "\n" not in str(error.value) and "hh-rlhf helpful-base" in str(error.value)


def test_real_pairs():
    samples = Preference().samples(rows_of(*(f"hh_rlhf/{name}_test.jsonl" for name in SETS)))
    assert len({sample.id for sample in samples}) == len(samples) == 8505
    for sample in samples:
        messages = sample.fields["messages"]
        assert messages and sample.fields["chosen"] != sample.fields["rejected"]
        assert messages[0][0] == "user" and messages[-1][0] == "user"


def test_real_pairs_rendered_independently():
    load = rows_of(*(f"hh_rlhf/{name}_test.jsonl" for name in SETS))
    kept = {}
    samples = {
        sample.id: sample for sample in Preference().samples(lambda source: kept.setdefault(source.name, load(source)))
    }
    for name in SETS:
        rows = kept[f"hh-rlhf {name}"]
        for place in (0, len(rows) - 1):
            fields = samples[f"preference/{name}/{place}"].fields
            names = {"user": "Human", "assistant": "Assistant"}
            told = "".join(f"\n\n{names[role]}: {said}" for role, said in fields["messages"])
            for key in ("chosen", "rejected"):
                whole = f"{told}\n\nAssistant: {fields[key]}"
                assert "".join(whole.split()) == "".join(rows[place][key].split())
