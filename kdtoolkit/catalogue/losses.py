"""The soft losses of `objective.kind`."""

from __future__ import annotations

from .entry import Entry

_WHERE = (
    "z, t: logits of student and teacher; T: objective.temperature; q = softmax(z / T), p = softmax(t / T)",
    "loss of a row = weight * (alpha * hard + (1 - alpha) * soft),  hard = - log softmax(z)[gold class]",
)
_SHARED = {
    "objective.alpha": "weight of the gold part; 0: teacher only, 1: labels only",
    "objective.weight": "weight of a task's rows",
    "objective.ensemble": "what is averaged over several teachers",
}
_TEMPERATURE = {
    "objective.temperature": "divides the logits of both sides",
    "objective.scale_T2": "multiply by T^2, so that the gradient does not fade as T grows",
}


def _divergence(
    name: str, summary: str, soft: str, source: str, notes: tuple[str, ...] = (), options: dict[str, str] | None = None
) -> Entry:
    return Entry(
        "objective", name, summary, f"objective: {{kind: {name}}}", (f"soft = {soft}", *_WHERE), source,
        {**(options or {}), **_TEMPERATURE, **_SHARED}, notes, rowwise=True,
    )  # fmt: skip


def _difference(name: str, summary: str, soft: str, source: str, notes: tuple[str, ...]) -> Entry:
    return Entry(
        "objective", name, summary, f"objective: {{kind: {name}}}", (f"soft = {soft}", *_WHERE), source, dict(_SHARED),
        ("There is no temperature and no factor of T^2.", *notes), rowwise=True,
    )  # fmt: skip


_HINTON = "Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2"

LOSSES = (
    _divergence(
        "ce", "cross-entropy against the teacher's softened probabilities", "T^2 * (- sum_c p_c log q_c)", _HINTON,
        ("Its gradient is that of kl; its value is larger by the teacher's entropy, which is not 0 at the optimum.",
         "Large T: the gradient tends to that of mse_centered, up to a constant.",
         "One class: 0."),
    ),
    _divergence(
        "kl", "KL divergence from the teacher: cross-entropy less the teacher's entropy",
        "T^2 * sum_c p_c log(p_c / q_c)", _HINTON,
        ("0 exactly where student and teacher agree.", "One class: 0."),
    ),
    _divergence(
        "rkl", "reverse KL divergence: the student keeps to what the teacher thinks likely",
        "T^2 * sum_c q_c log(q_c / p_c)", "Gu et al. 2024, arXiv:2306.08543 (for language models)",
        ("Where the teacher gives a class no probability and the student does, it is very large.", "One class: 0."),
    ),
    _divergence(
        "jsd", "generalised Jensen-Shannon divergence, between kl and rkl",
        "T^2 * (beta KL(p || m) + (1 - beta) KL(q || m)),  m = beta p + (1 - beta) q",
        "Agarwal et al. 2024, arXiv:2306.13649",
        ("beta to 0: divided by beta it tends to kl; beta to 1: divided by 1 - beta to rkl; at the ends it is 0.",
         "At most log 2 before T^2 and weights.", "One class: 0."),
        {"objective.beta": "the teacher's share in the mixture"},
    ),
    _divergence(
        "tvd", "total variation distance", "T^2 * sum_c |p_c - q_c| / 2",
        "Wen et al. 2023, arXiv:2307.15190 (for language models)",
        ("Between 0 and 1 before T^2; it has no gradient at classes where p and q are equal.", "One class: 0."),
    ),
    _difference(
        "mse", "squared difference of the logits", "mean_c (z_c - t_c)^2",
        "Ba and Caruana 2014, arXiv:1312.6184; Tang et al. 2019, arXiv:1903.12136, section 3.2",
        ("Probabilities as teacher are taken as log-probabilities, and mse sees the constant that is lost by that.",
         "Tang et al. take the sum over classes, not the mean.",
         "Regression tasks have it whatever the kind: (z - target)^2, target = alpha * gold + (1 - alpha) * teacher."),
    ),
    _difference(
        "mse_centered", "squared difference of the logits, each row's mean taken off first",
        "mean_c ((z_c - mean z) - (t_c - mean t))^2",
        "the limit of T^2 KL for large T, up to a factor: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.1",
        ("It does not see a constant added to the logits of a row, as the softmax does not.", "One class: 0."),
    ),
    Entry(
        "objective", "bce", "binary cross-entropy of each label: multilabel tasks, whatever the kind",
        "a task of kind: multilabel",
        ("soft = T^2 * mean_c (- p_c log q_c - (1 - p_c) log(1 - q_c)),  p = sigmoid(t / T), q = sigmoid(z / T)",
         "hard = the same against 0 and 1, at T = 1",
         "loss of a row = weight * (alpha * hard + (1 - alpha) * soft)"),
        "each label as a softmax of two classes: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2",
        {**_TEMPERATURE, **_SHARED}, ("objective.kind does not apply to these tasks.",), rowwise=True,
    ),
)  # fmt: skip
