"""Can a gateway decide without scikit-learn's models? The decision as an ONNX graph.

Cutting a text into terms and numbering them has no ONNX operator and stays in Python: `entries`
counts, the graph does the rest for any number of messages. The three models share its form: terms
are weighted, added up for each message and part (characters, words) and divided by the part's
length. Naive Bayes has one part, no idf and no length; the softmax of its two scores is the
sigmoid of their difference. A word's number is its place in the metadata's ``vocabulary``; a hashed
piece's is abs(murmurhash3_32(UTF-8, seed 0)) mod 2**18, and 2**18 more for a word. Weights are
float32 and sums float64, so a propensity within 1e-5 of the threshold may be decided otherwise.

Data:    a fitted model of `models`.
Source:  onnx.ai/onnx/operators, opset 18. ScatterElements, because onnxruntime's ScatterND adds to
         one slot from several threads at once (github.com/microsoft/onnxruntime/issues/18048).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from . import measures

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from sklearn.model_selection import FixedThresholdClassifier

# Of the term and of the length; a length is below `low` only where it is 0, without known words.
WEIGHTED = "logs = Log(count) term = Add(one, logs)", "norm = Sqrt(squares) length = Max(norm, low)"
COUNTED = "term = Identity(count)", "length = Identity(one)"
GRAPH = """<ir_version: 8, opset_import: ["" : 18]>
spam (int64[entries] row, int64[entries] index, double[entries] count, int64[1] messages)
  => (double[messages] propensity, bool[messages] prediction) {{
  {term}
  idf32 = Gather(idf, index)  idf64 = Cast<to = 11>(idf32)  value = Mul(term, idf64)
  weight32 = Gather(weight, index)  weight64 = Cast<to = 11>(weight32)
  share = Mul(value, weight64)  square = Mul(value, value)
  part = Div(index, columns)  first = Mul(row, parts)  slot = Add(first, part)
  slots = Mul(messages, parts)  zeros = Expand(zero, slots)
  dots = ScatterElements<reduction = "add">(zeros, slot, share)
  squares = ScatterElements<reduction = "add">(zeros, slot, square)
  {length}
  scaled = Div(dots, length)  shape = Concat<axis = 0>(messages, parts)
  table = Reshape(scaled, shape)  score = ReduceSum<keepdims = 0>(table, last)
  biased = Add(score, bias)  chance = Sigmoid(biased)  propensity = Clip(chance, low, high)
  prediction = GreaterOrEqual(propensity, threshold)
}}"""


def entries(model: FixedThresholdClassifier, texts: list[str]) -> dict[str, np.ndarray]:
    """Return the graph's inputs for n texts: how often (count) each row holds each index."""
    import numpy as np
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer

    first = model.estimator[0]
    if hasattr(first, "transformer_list"):
        counts = [part[0].transform(texts) for _, part in first.transformer_list]
    else:
        counts = [CountVectorizer.transform(first, texts)]  # TfidfVectorizer's own would weight
    found = hstack(counts, format="coo", dtype=np.float64)
    row, index = found.row.astype(np.int64), found.col.astype(np.int64)
    return {"row": row, "index": index, "count": found.data, "messages": np.array([len(texts)])}


def build(model: FixedThresholdClassifier) -> ModelProto:
    """Return the graph of one of the three models, with its constants."""
    import numpy as np
    from onnx import helper, numpy_helper, parser

    first, linear = model.estimator[0], model.estimator[-1]
    hashed = [part[1].idf_ for _, part in getattr(first, "transformer_list", [])]
    if weighted := hasattr(linear, "coef_"):
        idf, weight, bias = hashed or [first.idf_], linear.coef_[0], linear.intercept_[0]
    else:
        (ham, spam), prior = linear.feature_log_prob_, linear.class_log_prior_
        idf, weight, bias = [np.ones_like(ham)], spam - ham, prior[1] - prior[0]
    tables = {"zero": 0.0, "one": 1.0, "low": measures.CLIP, "high": 1 - measures.CLIP}
    tables |= {"bias": bias, "threshold": float(model.threshold)}
    tables |= {"columns": len(idf[0]), "parts": [len(idf)], "last": [1]}
    tables |= {"idf": np.float32(np.concatenate(idf)), "weight": np.float32(weight)}
    term, length = WEIGHTED if weighted else COUNTED
    made = parser.parse_model(GRAPH.format(term=term, length=length))
    constants = (numpy_helper.from_array(np.array(value), name) for name, value in tables.items())
    made.graph.initializer.extend(constants)
    if not hashed:
        vocabulary = json.dumps(first.get_feature_names_out().tolist())
        helper.set_model_props(made, {"vocabulary": vocabulary})
    return made
