"""`heads:`: what reads the student's features for a task."""

from __future__ import annotations

from .entry import Entry

_DROPOUT = {"heads.dropout": "on the features that the output layer reads"}
_HIDDEN = {"heads.hidden": "width of a ReLU layer before the output layer; null: none"}

HEADS = (
    Entry(
        "head", "linear", "one matrix on the pooled features", "heads: {name: linear}", ("outputs = W h + b",),
        "Devlin et al. 2019, arXiv:1810.04805, section 4.1", {**_DROPOUT, **_HIDDEN},
        ("A pair must be read jointly.", "The linear and pair heads of a mixed batch are one product."),
    ),
    Entry(
        "head", "pair", "two texts that were encoded apart, compared", "heads: {name: pair}",
        ("outputs = W [a; b; |a - b|; a * b] + b_0",),
        "Conneau et al. 2017, arXiv:1705.02364, section 3.1; Tang et al. 2019, arXiv:1903.12136, section 3.1",
        {**_DROPOUT, **_HIDDEN},
        ("Tang et al.: hidden: 200.", "A single text beside pairs in one batch is a pair with itself."),
    ),
    Entry(
        "head", "biattention", "each text attends to the other, and an integrator reads both (MKD)",
        "heads: {name: biattention}",
        ("A = X Y^T;  C_x = softmax(A) Y,  C_y = softmax(A^T) X,  over real tokens",
         "I_x = BiLSTM([X; X - C_x; X * C_x]),  I_y likewise",
         "features = [max; min; mean; self-attentive] of I_x, then of I_y;  outputs = W features + b"),
        "McCann et al. 2017, arXiv:1708.00107, section 5; as MKD's student (Liu et al. 2019, arXiv:1911.03588), a "
        "reconstruction",
        {**_DROPOUT, **_HIDDEN, "heads.width": "features of each direction of the integrator; null: half the student's",
         "heads.shared": "one attention and integrator for all tasks, or one a task"},
        ("A single text is paired with itself.", "It needs a student that gives the states of all tokens."),
    ),
    Entry(
        "head", "san", "stochastic answer network: several reasoning steps over a pair (MT-DNN)", "heads: {name: san}",
        ("s_0 = self-attentive pooling of the second text",
         "x_k = attention of s_k over the first text's states (bilinear);  P_k = softmax(W [s; x; |s - x|; s * x])",
         "s_(k+1) = GRU(s_k, x_k);  outputs = log of the mean of P_k"),
        "Liu, Duh and Gao 2018, arXiv:1804.07888; MT-DNN: arXiv:1901.11504, section 3",
        {**_DROPOUT, "heads.width": "of its memory; null: the student's width", "heads.steps": "K",
         "heads.step_dropout": "probability that a step's P_k is left out of the mean in training"},
        ("Classification of two texts only.", "At least one step is kept in every row; when predicting, all are.",
         "One step is a single attention and no average."),
    ),
    Entry(
        "head", "ranking", "candidates of one query, compared with each other (MT-DNN's QNLI)",
        "heads: {name: ranking}",
        ("r = w . h,  P(candidate | query) = softmax of gamma * r over the query's candidates",
         "gold: - log P(the relevant one);  teacher: cross-entropy of the two distributions over candidates",
         "a row alone: softmax gives sigmoid(gamma * r) for the positive label"),
        "Liu et al. 2019, arXiv:1901.11504, section 3; Burges et al. 2005",
        {**_DROPOUT, **_HIDDEN, "heads.gamma": "what the relevance is multiplied by",
         "heads.positive": "the label of a relevant candidate; null: the first label"},
        ("Two labels; rows of one first text are a query's candidates, and are kept in one batch.",
         "A sum over queries: cutting a batch between them changes nothing.",
         "Queries without a relevant candidate, or of one row, have the plain loss of their rows.",
         "What a single row is called stays open: compare a query's candidates. Metrics, row by row, say little."),
    ),
)  # fmt: skip
