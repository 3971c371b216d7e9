"""The further terms of `objective.terms`; tests compare the options with the constructors."""

from __future__ import annotations

from .entry import Entry

_PROJECT = "learned matrix from the student's width to the teacher's; null: where the widths differ"
_LAYER = "of the teacher, counted from 1; null: its last"
_NEGLECTED = "temperature of the softmax; null: objective.temperature"
_TOKENS = (
    "Compares token by token: the student needs the teacher's tokenizer (tokenizer: teacher), and reads pairs jointly."
)
_PADDING = "Means are over a row's real tokens, so padding and the other rows of a batch change nothing."


def _term(
    name: str, summary: str, formula: tuple[str, ...], source: str, options: dict[str, str], notes: tuple[str, ...],
    *, rowwise: bool = True,
) -> Entry:  # fmt: skip
    use = f"objective: {{terms: [{{name: {name}, weight: 1.0}}]}}"
    return Entry("objective", name, summary, use, formula, source, options, notes, rowwise)


TERM_ENTRIES = (
    _term(
        "pkd", "the first token's states, normalised, layer by layer (BERT-PKD)",
        ("sum_m | s_m / |s_m| - t_I(m) / |t_I(m)| |^2    over the student's layers m below its last",
         "s, t: states of the first token after a layer; I: the layer map"),
        "Sun et al. 2019, arXiv:1908.09355, section 3.2",
        {"layers": "I: skip (every T / S-th layer), last (those below the teacher's last), or the teacher's layers",
         "project": _PROJECT,
         "reduction": "sum over layers and features (paper), or mean over both (authors' code)"},
        ("The authors' code has the mean, and weights such as 500; 5 layers of width 768 make the sum 3840 times that.",
         "A student of one layer has no layer below its last, and is refused.",
         "The paper has equal widths and no projection.",
         "Student and teacher need not read the same tokens; pairs must be read jointly.")),
    _term(
        "attention", "attention scores before the softmax (TinyBERT)",
        ("sum_m mean over heads and pairs (i, j) of real tokens of (A_m[i, j] - B_g(m)[i, j])^2",
         "A, B: scores Q K^T / sqrt(d) of student and teacher; g: the layer map"),
        "Jiao et al. 2020, arXiv:1909.10351, section 3.1",
        {"layers": "g: uniform (m * T / S), last, first, or the teacher's layer for each of the student's"},
        ("The head counts must be equal; minilmv2 regroups heads of any number.",
         "The authors' code counts pairs with padding as 0, which makes the value depend on a batch's longest row.",
         "A student without attention (bilstm) is refused.", _TOKENS)),
    _term(
        "hidden", "hidden states of all tokens through a learned matrix (TinyBERT)",
        ("sum_m mean over real tokens and features of (H_m W - G_g(m))^2",
         "H, G: states after a layer; W: one learned matrix, without bias; g: the layer map"),
        "Jiao et al. 2020, arXiv:1909.10351, section 3.1",
        {"layers": "g: uniform (m * T / S), last, first, or the teacher's layer for each of the student's",
         "project": "the matrix W; null: only where the widths differ; false: none"},
        (_PADDING, "The authors' code has one matrix, with bias, for this term and embedding together.", _TOKENS)),
    _term(
        "embedding", "embeddings of all tokens through a learned matrix (TinyBERT)",
        ("mean over real tokens and features of (H_0 W - G_0)^2",),
        "Jiao et al. 2020, arXiv:1909.10351, section 3.1",
        {"project": "the matrix W; null: only where the widths differ; false: none"},
        ("Layer 0 is what the first layer reads: words, positions and segments together.", _PADDING, _TOKENS)),
    _term(
        "minilm", "attention and value relations of the last layer (MiniLM)",
        ("mean over heads and real tokens of KL(A_T || A_S)  +  the same of KL(V_T || V_S)",
         "A = softmax(Q K^T / sqrt(d)), V = softmax(V V^T / sqrt(d)), one distribution a token and head"),
        "Wang et al. 2020, arXiv:2002.10957, section 3",
        {"layer": _LAYER},
        ("The head counts must be equal (minilmv2 has no such need); the widths need not.",
         "A student without attention (bilstm) is refused.", _PADDING, _TOKENS)),
    _term(
        "minilmv2", "relations between queries, keys and values, regrouped into relation heads (MiniLMv2)",
        ("sum over X in Q, K, V of weight_X * mean over heads and real tokens of KL(R_T || R_S)",
         "R = softmax(X X^T / sqrt(d)), X cut into `heads` relation heads of d features"),
        "Wang et al. 2021, arXiv:2012.15828, section 3",
        {"heads": "relation heads, a divisor of both widths; null: the teacher's attention heads",
         "layer": _LAYER,
         "queries": "weight of Q-Q; 0 leaves it out", "keys": "weight of K-K", "values": "weight of V-V",
         "states": "the student's last hidden states in the place of its Q, K and V, for students without attention"},
        ("Head counts and widths of student and teacher may differ.",
         "The paper takes the last layer of a base teacher and an upper middle one of a large teacher.",
         "states: true is ours, not the paper's.", _PADDING, _TOKENS)),
    _term(
        "cosine", "direction of the last hidden states (DistilBERT)",
        ("mean over real tokens of 1 - cos(s, t)",),
        "Sanh et al. 2019, arXiv:1910.01108, section 2",
        {"first": "only the first token: student and teacher may then read different tokens",
         "layer": _LAYER, "project": _PROJECT},
        ("The authors' code averages over all tokens of a batch, so that long rows weigh more; here each row weighs 1.",
         "The paper has equal widths and no projection.", f"Unless first is true: {_TOKENS}")),
    _term(
        "rkd", "distances and angles between the rows of a batch (RKD)",
        ("distance * mean over pairs (i, j) of Huber(d_S(i, j) / mean d_S - d_T(i, j) / mean d_T)",
         "+ angle * mean over triplets (i, j, k) of Huber(cos_S(i, j, k) - cos_T(i, j, k)), the angle at j",
         "Huber(x) = x^2 / 2 up to |x| = 1, then |x| - 1 / 2; pairs and triplets of different rows of one task"),
        "Park et al. 2019, arXiv:1904.05068, section 3.2",
        {"distance": "weight of the distances", "angle": "weight of the angles",
         "on": "states: pooled features against the first token's state; logits: outputs, for any teacher",
         "layer": _LAYER},
        ("Shifting, turning or scaling all rows of one side changes nothing.",
         "Fewer than two rows of a task in a batch: no distance; fewer than three: no angle.",
         "The angles take rows^3 numbers. The authors' code counts the zeros of i = j in its means.",
         "on: logits sees the constant of a row's logits that a softmax does not; stored probabilities have lost it.",
         "The weights' defaults are those of the authors' example."),
        rowwise=False),
    _term(
        "dkd", "the gold class against the rest, and the rest among themselves, weighed apart (DKD)",
        ("T^2 * (target * TCKD + non_target * NCKD)",
         "TCKD = KL([p_g, 1 - p_g] || [q_g, 1 - q_g]), g the gold class",
         "NCKD = KL of p from q over the other classes, renormalised",
         "KL(p || q) = TCKD + (1 - p_g) NCKD"),
        "Zhao et al. 2022, arXiv:2203.08679, section 3",
        {"target": "the paper's alpha", "non_target": "the paper's beta (2 to 8 in its configurations)",
         "temperature": f"{_NEGLECTED} (paper: 4)"},
        ("Two classes: NCKD is 0, so this is plain distillation (kl) times target.",
         "Rows without a gold label are left out; only single-label classification has a gold class.",
         "In the place of the soft loss, as in the paper: objective.alpha: 1, which keeps the gold part beside it.",
         "The paper's warm-up is a schedule: weight: {from: 0.0, to: 1.0, end: 0.1}.")),
    _term(
        "dist", "correlation of the probabilities within rows and within classes (DIST)",
        ("rows * (1 - corr over classes of q and p, row by row)",
         "+ columns * (1 - mean over classes of corr over the rows of a batch)",
         "corr: Pearson's; rows are those of one task"),
        "Huang et al. 2022, arXiv:2205.10536, section 3",
        {"rows": "the paper's beta", "columns": "the paper's gamma; 0 makes it a sum over rows",
         "temperature": _NEGLECTED},
        ("Two classes: the correlation of a row is 1 or -1 and teaches nothing; only the columns do.",
         "The columns need a good many rows of a task in a batch; of one row they are constant.",
         "A row or column that does not vary has correlation 0 and no gradient. There is no factor of T^2."),
        rowwise=False),
)  # fmt: skip
