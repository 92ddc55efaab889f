"""What the benchmark and the cycle model both measure: the layers, the tokens that a pruned GPT-2 keeps, the bars."""

__all__ = [
    "BERT_CYCLES",
    "CASCADE_BANDWIDTH",
    "CAUSAL_SHARE",
    "FLAT_SHARE",
    "GENERATION_BANDWIDTH",
    "GPT2_CONTEXT",
    "GPT2_KEPT",
    "GPT2_LIVE",
    "HEADS",
    "HEAD_DIM",
    "QUEUED_SHARE",
]

HEADS, HEAD_DIM = 12, 64
"""Of a layer of BERT-base and of GPT-2-small."""
BERT_CYCLES = {12: 576, 32: 1739, 128: 25079, 384: 222487}
"""Cycles that one dense 8-bit BERT-base layer of that length may take alone; the paper's authors' model has those of 32
to 384."""
QUEUED_SHARE = {32: 0.95, 128: 0.99, 384: 0.995}
"""Of all multipliers, what layers of that length must use that follow each other."""
CAUSAL_SHARE = 0.56
"""Of the cycles of the full square, what a causal prompt may take."""
GENERATION_BANDWIDTH = {"alone": 0.90, "queued": 0.95}
"""Of the channels' bandwidth, what a dense layer that generates must use, alone and between others like it."""
CASCADE_BANDWIDTH = 0.80
"""Of the channels' bandwidth, what layers with cascade pruning must use that follow each other."""
GPT2_CONTEXT = 993
"""Tokens that a sequence of GPT-2-small has."""
_COUNTS = (1024, 921, 716, 204, 204, 204, 204, 102, 102, 102, 102, 102)
"""Live tokens of 1,024 in each layer of GPT-2-small, of the trace that the paper's authors released."""
GPT2_LIVE = tuple(GPT2_CONTEXT * count // 1024 for count in _COUNTS)
"""Tokens that take part in each layer."""
GPT2_KEPT = (*GPT2_LIVE[1:], GPT2_LIVE[-1])
"""Tokens that each layer keeps."""
FLAT_SHARE = 0.059
"""Of the rows, how many need their LSBs (SpAtten section III-D)."""
