"""What holds for every term: padding, row order, cuts, gradients, and agreement as the end of learning."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from term_cases import (
    CASES,
    CLASSES,
    STUDENT,
    TEACHER,
    as_features,
    batch_of,
    built,
    encoded,
    features_of,
    mask_of,
    of_rows,
    random,
    seen_of,
)  # fmt: skip

from kdtoolkit.objectives.terms import TERMS, Term
from kdtoolkit.recipe.terms import KNOWN_TERMS
from kdtoolkit.student import Encoded

every_case = pytest.mark.parametrize("case", CASES)


def longer(states, mask, more):
    """Hidden states with `more` further positions that hold noise; mask: which dimensions are time."""
    rows, time = mask.shape
    if states.dim() == 4 and states.shape[2:] == (time, time):
        grown = random(rows, states.shape[1], time + more, time + more, scale=100.0)
        grown[:, :, :time, :time] = states
        return grown
    dim = 1 if states.dim() == 3 else 2
    if states.dim() == 2:
        return states
    sizes = list(states.shape)
    sizes[dim] = more
    return torch.cat([states, random(*sizes, scale=100.0)], dim)


@every_case
def test_padding_changes_nothing(case):
    term, mask = built(case), mask_of()
    given, features = encoded(STUDENT, mask), features_of(TEACHER, mask)
    seen = seen_of(term, given, mask, features)
    parts = {
        field.name: tuple(longer(states, mask, 3) for states in value)
        for field in fields(Encoded)
        if isinstance(value := getattr(given, field.name), tuple)
    }
    padded = {name: longer(states, mask, 3) for name, states in features.items()}
    again = seen_of(
        term, replace(given, **parts), mask_of(time=8), padded, logits=(seen.student_logits, seen.teacher_logits)
    )
    torch.testing.assert_close(term.loss(again), term.loss(seen), rtol=1e-5, atol=1e-6)


@every_case
def test_what_stands_on_padding_means_nothing(case):
    term, mask = built(case), mask_of()
    given, features = encoded(STUDENT, mask), features_of(TEACHER, mask)
    logits = random(6, CLASSES), random(6, CLASSES)
    value = term.loss(seen_of(term, given, mask, features, logits=logits))
    with torch.no_grad():
        for states in given.hidden:
            states[~mask] = 1e4
        for states in (*given.queries, *given.keys, *given.values):
            states.transpose(1, 2)[~mask] = -1e4
        for scores in given.attentions:
            scores.permute(0, 2, 3, 1)[~(mask.unsqueeze(1) & mask.unsqueeze(2))] = float("-inf")
    other = term.loss(seen_of(term, given, mask, features, logits=logits))
    torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6)
    other.sum().backward() if other.requires_grad else None
    leaves = [given.pooled, *given.hidden, *given.attentions, *given.queries, *given.keys, *given.values]
    assert all(leaf.grad is None or bool(leaf.grad.isfinite().all()) for leaf in leaves)


@every_case
def test_rows_may_come_in_any_order(case):
    term, mask = built(case), mask_of()
    seen = seen_of(term, encoded(STUDENT, mask), mask, features_of(TEACHER, mask))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(term.loss(of_rows(seen, order)), term.loss(seen)[order], rtol=1e-5, atol=1e-6)


@every_case
def test_cutting_a_batch_changes_nothing_unless_the_term_says_so(case):
    term, mask = built(case), mask_of()
    seen = seen_of(term, encoded(STUDENT, mask), mask, features_of(TEACHER, mask))
    rows = torch.arange(6)
    cut = torch.cat([term.loss(of_rows(seen, part)) for part in (rows[:1], rows[1:4], rows[4:])])
    assert torch.allclose(cut, term.loss(seen), rtol=1e-5, atol=1e-6) is term.rowwise


@every_case
def test_a_value_of_the_batch_stands_in_every_row(case):
    term, mask = built(case), mask_of()
    value = term.loss(seen_of(term, encoded(STUDENT, mask), mask, features_of(TEACHER, mask)))
    assert value.shape == (6,) and value.dtype == torch.float32 and bool((value >= 0).all())
    if KNOWN_TERMS[CASES[case][0]].batch and CASES[case][0] == "rkd":
        assert len(value.unique()) == 1
    else:
        assert len(value.unique()) > 1


@every_case
def test_a_student_that_is_the_teacher_has_nothing_to_learn(case):
    name, options = CASES[case]
    takes_projection = "project" in KNOWN_TERMS[name].options()
    same = {**options, **({"project": False} if takes_projection else {})}
    same |= {"layers": [3] if name == "pkd" else "last"} if "layers" in KNOWN_TERMS[name].options() else {}
    same |= {"layer": None} if "layer" in KNOWN_TERMS[name].options() else {}
    shape = TEACHER._replace(layers=2)
    if name == "pkd":
        same["layers"] = [1]
    term = TERMS[name](shape, shape, **same)
    mask = mask_of()
    given = encoded(shape, mask)
    given.pooled = given.hidden[-1][:, 0]
    features = as_features(given)
    if options.get("states"):
        # The student's states stand in the place of all three.
        states = given.hidden[-1].detach()
        features |= {f"{one}/2": states for one in ("queries", "keys", "values")}
    logits = random(6, CLASSES).requires_grad_()
    value = term.loss(seen_of(term, given, mask, features, logits=(logits, logits.detach())))
    torch.testing.assert_close(value, torch.zeros(6), rtol=0, atol=1e-5)
    value.sum().backward()
    leaves = [logits, given.pooled, *given.hidden, *given.attentions, *given.queries, *given.keys, *given.values]
    gradients = [leaf.grad for leaf in leaves if leaf.is_leaf and leaf.grad is not None]
    assert gradients
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


@every_case
def test_a_small_step_against_the_gradient_lowers_the_loss(case):
    term, mask = built(case), mask_of()
    given, features = encoded(STUDENT, mask), features_of(TEACHER, mask)
    logits, teacher_logits = random(6, CLASSES).requires_grad_(), random(6, CLASSES)
    leaves = [logits, given.pooled, *given.hidden, *given.attentions, *given.queries, *given.keys, *given.values]
    leaves += list(term.parameters())

    def loss():
        return term.loss(seen_of(term, given, mask, features, logits=(logits, teacher_logits))).sum()

    before = loss()
    before.backward()
    before = float(before.detach())
    moved = [leaf for leaf in leaves if leaf.grad is not None]
    squared = sum(float(leaf.grad.square().sum()) for leaf in moved)
    assert squared > 0
    assert all(parameter.grad is not None for parameter in term.parameters())
    rate = 1e-3 * before / squared
    with torch.no_grad():
        for leaf in moved:
            leaf -= rate * leaf.grad
    # To first order the loss falls by rate * |gradient|^2.
    assert before - float(loss().detach()) == pytest.approx(1e-3 * before, rel=0.1)


@every_case
def test_bfloat16_features_give_a_float32_loss(case):
    term, mask = built(case), mask_of()
    seen = seen_of(term, encoded(STUDENT, mask), mask, features_of(TEACHER, mask))
    half = replace(seen, student={name: states.bfloat16() for name, states in seen.student.items()})
    value = term.loss(half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, term.loss(seen), rtol=0.1, atol=0.05)


@every_case
def test_only_what_was_asked_for_is_read(case):
    term, mask = built(case), mask_of()
    given = encoded(STUDENT, mask)
    kept = {"pooled"} | ({"hidden"} & term.student_needs)
    kept |= {"attentions"} & term.student_needs
    kept |= {"queries", "keys", "values"} if "relations" in term.student_needs else set()
    bare = replace(given, **{f.name: None for f in fields(Encoded) if f.name not in kept})
    assert bool(torch.isfinite(term.loss(seen_of(term, bare, mask, features_of(TEACHER, mask)))).all())


@every_case
def test_student_needs_are_those_that_a_student_can_be_asked_for(case):
    term = built(case)
    assert term.student_needs <= {"hidden", "attentions", "relations"}
    assert term.outputs is (not term.teacher_needs)
    assert term.joint or not term.tokens


def test_terms_are_those_that_recipes_know():
    assert set(TERMS) == set(KNOWN_TERMS)
    assert all(TERMS[name].labelled == known.labels for name, known in KNOWN_TERMS.items())
    assert all(issubclass(cls, Term) for cls in TERMS.values())


@pytest.mark.parametrize("name", TERMS)
def test_projections_are_the_same_for_the_same_seed(name):
    terms = []
    for _ in range(2):
        torch.manual_seed(3)
        terms.append(TERMS[name](STUDENT, TEACHER))
    first, second = (term.state_dict() for term in terms)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", TERMS)
def test_a_side_without_layers_is_refused_with_the_way_out(name):
    if name in ("dkd", "dist"):
        TERMS[name](None, None)
        return
    with pytest.raises(ValueError, match="the teacher shows no layers; use a teacher that does"):
        TERMS[name](STUDENT, None)
    if name == "rkd":
        TERMS[name](None, TEACHER)
        TERMS[name](None, None, on="logits")
        return
    with pytest.raises(ValueError, match="the student shows no layers"):
        TERMS[name](None, TEACHER)


@pytest.mark.parametrize("name", ["attention", "minilm", "minilmv2"])
def test_a_student_without_attention_is_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match="the student has no attention; use the term hidden, or minilmv2 with states"):
        TERMS[name](STUDENT._replace(heads=None), TEACHER)


@pytest.mark.parametrize("name", ["attention", "minilm"])
def test_head_counts_that_differ_are_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=r"3 attention heads and the teacher 4.*give the student 4 heads.*minilmv2"):
        TERMS[name](STUDENT, TEACHER._replace(heads=4))


def test_a_row_of_two_texts_read_apart_shows_its_first_where_a_row_is_one_sequence():
    mask = mask_of((3, 3, 3, 3))
    batch = batch_of(mask, second=torch.tensor([2, 3]))
    batch.first = torch.tensor([0, 1])
    for name, cls in TERMS.items():
        term, given = cls(STUDENT, TEACHER), encoded(STUDENT, mask)
        found = term(given, batch)
        assert all(len(states) == 2 for states in found.values()), name
        if term.joint:
            alone = term(given, batch_of(mask))
            assert all(torch.allclose(states, alone[part][:2], atol=1e-6) for part, states in found.items()), name


def test_a_text_that_stands_in_several_rows_is_read_for_each():
    mask = mask_of((3, 2))
    batch = batch_of(mask, second=torch.tensor([1, 0, 1]))
    batch.first = torch.tensor([1, 0, 1])
    given = encoded(STUDENT, mask)
    states = TERMS["cosine"](STUDENT, STUDENT)(given, batch)["states"]
    assert torch.equal(states, given.hidden[-1][[1, 0, 1]])
