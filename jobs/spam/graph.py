"""Can a gateway decide without scikit-learn's models? The decision as an ONNX graph.

Cutting a text into terms and numbering them has no ONNX operator and stays in Python: `terms`
numbers, `inputs` counts, the graph does the rest for any number of messages. The three models share
its form: terms are weighted, added up for each part (characters, words) of each message and divided
by the part's length. Naive Bayes has one part, no idf and no length; the softmax of its two scores
is the sigmoid of their difference. Weights are float32 and sums float64, so a propensity within
1e-6 of the threshold may be decided otherwise.

Data:    a fitted model of `models`.
Source:  onnx.ai/onnx/operators, opset 18. ScatterElements, because onnxruntime's ScatterND adds to
         one slot from several threads at once (github.com/microsoft/onnxruntime/issues/18048).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from . import measures, terms

if TYPE_CHECKING:
    import numpy as np
    from onnx import ModelProto
    from onnxruntime import InferenceSession
    from sklearn.model_selection import FixedThresholdClassifier

BATCH = 256
"""Messages at a time: their arrays stay in the processor's cache."""

# Of the term and of the length; a length is below `low` only where it is 0, without known words.
WEIGHTED = "logs = Log(count) term = Add(one, logs)", "norm = Sqrt(squares) length = Max(norm, low)"
COUNTED = "term = Identity(count)", "length = Identity(unit)"
GRAPH = """<ir_version: 8, opset_import: ["" : 18]>
spam (int64[entries] slot, int64[entries] index, float[entries] count, int64[1] messages)
  => (double[messages] propensity, bool[messages] prediction) {{
  {term}
  idfs = GatherElements(idf, index)  value = Mul(term, idfs)
  weights = GatherElements(weight, index)  share = Mul(value, weights)  square = Mul(value, value)
  share64 = Cast<to = 11>(share)  square64 = Cast<to = 11>(square)
  shape = Concat<axis = 0>(parts, messages)  slots = Mul(messages, parts)
  zeros = Expand(zero, slots)
  dots = ScatterElements<reduction = "add">(zeros, slot, share64)
  squares = ScatterElements<reduction = "add">(zeros, slot, square64)
  {length}
  scaled = Div(dots, length)  table = Reshape(scaled, shape)
  score = ReduceSum<keepdims = 0>(table, first)
  biased = Add(score, bias)  chance = Sigmoid(biased)  propensity = Clip(chance, low, high)
  prediction = GreaterOrEqual(propensity, threshold)
}}"""


def scored(session: InferenceSession, texts: Sequence[str]) -> Iterator[tuple[bool, float]]:
    """Yield prediction and propensity of each text by the graph of `build`."""
    words = vocabulary(session)
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        propensity, prediction = session.run(None, inputs(batch, words))
        yield from zip(prediction.tolist(), propensity.tolist(), strict=True)


@lru_cache(maxsize=1)
def vocabulary(session: InferenceSession) -> Mapping[str, int]:
    """Return the number of each word that a graph knows; empty where terms are hashed."""
    words = session.get_modelmeta().custom_metadata_map.get("vocabulary", "[]")
    return {word: number for number, word in enumerate(json.loads(words))}


def inputs(texts: Sequence[str], words: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the graph's inputs for n texts: how often (count) each slot holds each index.

    Slot and index of a term are told by its key; a hashed word's weight stands 2**18 further on.
    """
    import numpy as np

    keys = terms.looked_up(texts, words) if words else terms.hashed(texts)
    keys.sort()
    edge = np.ones(len(keys) + 1, bool)
    np.not_equal(keys[1:], keys[:-1], out=edge[1:-1])
    first = edge.nonzero()[0]
    found = keys[first[:-1]].astype(np.int64)
    slot, index = found >> terms.BITS, found & 2**terms.BITS - 1
    index[slot.searchsorted(len(texts)) :] += 2**terms.BITS
    count = (first[1:] - first[:-1]).astype(np.float32)
    return {"slot": slot, "index": index, "count": count, "messages": np.array([len(texts)])}


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
    tables = {"zero": 0.0, "unit": 1.0, "low": measures.CLIP, "high": 1 - measures.CLIP}
    tables |= {"one": np.float32(1), "bias": bias, "threshold": float(model.threshold)}
    tables |= {"parts": [len(idf)], "first": [0]}
    tables |= {"idf": np.float32(np.concatenate(idf)), "weight": np.float32(weight)}
    term, length = WEIGHTED if weighted else COUNTED
    made = parser.parse_model(GRAPH.format(term=term, length=length))
    used = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(np.array(value), name)
        for name, value in tables.items()
        if name in used
    )
    if not hashed:
        vocabulary = json.dumps(first.get_feature_names_out().tolist())
        helper.set_model_props(made, {"vocabulary": vocabulary})
    return made
