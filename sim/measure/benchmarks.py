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
"""Heads of a layer of BERT-base and of GPT-2-small, and their dimension."""
BERT_CYCLES = {12: 576, 32: 1739, 128: 25079, 384: 222487}
"""Most cycles that one dense 8-bit BERT-base layer of a length may take alone; those of 32 to 384 are from the model of
the paper's authors."""
QUEUED_SHARE = {32: 0.95, 128: 0.99, 384: 0.995}
"""Share of all multipliers that layers of a length must use when they follow each other."""
CAUSAL_SHARE = 0.56
"""Share of the full square's cycles that a causal prompt may take."""
GENERATION_BANDWIDTH = {"alone": 0.90, "queued": 0.95}
"""Share of the channels' bandwidth that a dense layer that generates must use, alone and between others like it."""
CASCADE_BANDWIDTH = 0.80
"""Share of the channels' bandwidth that layers with cascade pruning must use when they follow each other."""
GPT2_CONTEXT = 993
"""Tokens that a sequence of GPT-2-small has."""
_COUNTS = (1024, 921, 716, 204, 204, 204, 204, 102, 102, 102, 102, 102)
"""Live tokens of 1,024 in each layer of GPT-2-small, of the trace that the paper's authors released."""
GPT2_LIVE = tuple(GPT2_CONTEXT * count // 1024 for count in _COUNTS)
"""Tokens that take part in each layer."""
GPT2_KEPT = (*GPT2_LIVE[1:], GPT2_LIVE[-1])
"""Tokens that each layer keeps."""
FLAT_SHARE = 0.059
"""Share of the rows that need their LSBs (SpAtten section III-D)."""
