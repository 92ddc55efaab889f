"""Job descriptors for tests: packed from fields, random ones, and by definition why one must be refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from spatten.spec.config import Config, Feature
from spatten.spec.job import (
    JOB_WORDS,
    Flag,
    Job,
    JobError,
    KeyFetch,
    Mode,
    ScoreScale,
    flags_of,
    ignored_bits,
    index_bits,
    job_fields,
)
from spatten.spec.register_map import RejectReason

WIDTHS = (4, 6, 8, 10, 12, 16)
"""Widths of codes, by their numbers in the descriptor."""
DIMS = (16, 32, 64, 128)
ADDRESSES = ("query", "key", "key_lsb", "value", "output", "has_kv", "pinned", "state")

BESIDE_THE_DESCRIPTOR = {RejectReason.NONE, RejectReason.DRAINING, RejectReason.FAILED, RejectReason.QUEUE_FULL}
"""Reasons that do not depend on what the descriptor says."""

Fields = dict[str, int]


def possible_reasons(config: Config) -> set[RejectReason]:
    """Reasons that a descriptor can meet in this configuration, and the one that the doorbell's own word meets."""
    absent = {
        RejectReason.ADDRESS: config.channels == 1,
        RejectReason.ADDRESS_RANGE: config.sector_bits == 32,
        RejectReason.CONTEXT: config.contexts == 1 << index_bits(config.contexts),
        RejectReason.HEAD_DIM: config.head_dim_max == 128,
        RejectReason.LOAD_AND_CLEAR: not config.has(Feature.SAVED_STATES),
        RejectReason.PRUNE_VALUES: not config.has(Feature.PRUNE_VALUES),
        RejectReason.KEEP_VALUES: not config.has(Feature.PRUNE_VALUES),
        RejectReason.KEEP_HEADS: not config.has(Feature.PRUNE_HEADS),
        RejectReason.MULTIPLIER: not config.has(Feature.PRUNE_HEADS),
        RejectReason.FEATURE: all(config.has(feature) for feature in Feature),
    }
    return {reason for reason in set(RejectReason) - BESIDE_THE_DESCRIPTOR if not absent.get(reason, False)}


def pack(config: Config, values: Mapping[str, int]) -> list[int]:
    """The words of a descriptor."""
    words = [0] * JOB_WORDS
    for field in job_fields(config):
        assert 0 <= values[field.name] < 1 << field.width, (field.name, values[field.name])
        words[field.word] |= values[field.name] << field.bit
    return words


def payload(config: Config, values: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a descriptor as `o_job` has them."""
    job: dict[str, Any] = {name: value for name, value in values.items() if not name.startswith(("mantissa", "shift"))}
    job["flags"] = sum((values["flags"] >> flag & 1) << place for place, flag in enumerate(flags_of(config)))
    job["scales"] = [
        {"mantissa": values[f"mantissa{head}"], "shift": values[f"shift{head}"]} for head in range(config.heads_max)
    ]
    return job


def random_job(config: Config, source: Random) -> Fields:
    """A descriptor that must be accepted; fields that it does not use are anything."""
    values = {field.name: source.getrandbits(field.width) for field in job_fields(config)}
    mode = source.randrange(3)
    heads = source.randint(1, config.heads_max)
    keys = source.choice([1, config.tokens_max, source.randint(1, config.tokens_max)])
    queries = 1 if mode == 2 else source.choice([1, keys, source.randint(1, keys)])
    flags = values["flags"] & sum(1 << flag for flag in flags_of(config))
    if mode != 2:
        flags &= ~(1 << Flag.PRUNE_VALUES)
    if flags >> Flag.CLEAR & 1:
        flags &= ~(1 << Flag.LOAD_STATE)
    planes = [WIDTHS.index(bits) for bits in config.plane_bits]
    values |= {
        "mode": mode,
        "fetch": source.randrange(3 if mode == 2 and config.has(Feature.PROGRESSIVE) else 2),
        "context": source.randrange(config.contexts),
        "flags": flags,
        "head_dim": DIMS.index(source.choice(config.head_dims)),
        "query_bits": WIDTHS.index(source.choice(config.query_bits)),
        "key_bits": source.choice(planes),
        "value_bits": source.choice(planes),
        "heads": heads,
        "head_mask": source.randint(1, (1 << heads) - 1),
        "keys": keys,
        "kv_rows": source.randint(keys, (1 << config.tokens_max.bit_length()) - 1),
        "valid_length": source.choice([1, keys, source.randint(1, keys)]),
        "queries": queries,
        "query_offset": source.choice([0, keys - queries, source.randint(0, keys - queries)]),
        **(
            {"multiplier": source.choice([1, 1 << 15, source.randint(1, 1 << 15)])}
            if config.has(Feature.PRUNE_HEADS)
            else {}
        ),
    }
    for name, flag, most in (
        ("keep_tokens", Flag.PRUNE_TOKENS, keys),
        ("keep_values", Flag.PRUNE_VALUES, keys),
        ("keep_heads", Flag.PRUNE_HEADS, heads),
    ):
        if flags >> flag & 1:
            values[name] = source.choice([1, most, source.randint(1, most)])
    for name in ADDRESSES:
        if name in values:
            values[name] &= -config.channels
    for head in range(heads):
        values[f"mantissa{head}"] |= 1 << 15
        values[f"shift{head}"] = source.choice([4, 63, source.randint(4, 63)])
    return values


def uses(values: Mapping[str, int], flag: Flag) -> bool:
    """Whether a flag is set."""
    return bool(values["flags"] >> flag & 1)


def refusal(config: Config, words: list[int]) -> tuple[RejectReason, int] | None:
    """Why a descriptor must be refused, by the reasons' definitions, and in which word; None if it must be accepted."""
    found: list[tuple[RejectReason, int]] = []
    fields = {field.name: field for field in job_fields(config)}
    v = {name: words[f.word] >> f.bit & (1 << f.width) - 1 for name, f in fields.items()}

    def refuse(reason: RejectReason, name: str, when: bool) -> None:
        if when:
            found.append((reason, fields[name].word))

    has_values, has_heads, saves = (
        config.has(feature) for feature in (Feature.PRUNE_VALUES, Feature.PRUNE_HEADS, Feature.SAVED_STATES)
    )
    address_words = {fields[name].word for name in ADDRESSES if name in fields}
    ignored = ignored_bits(config)
    for word in range(JOB_WORDS):
        known = sum(((1 << f.width) - 1) << f.bit for f in fields.values() if f.word == word)
        known |= ignored.get(word, 0)
        if words[word] & ~known:
            found.append((RejectReason.ADDRESS_RANGE if word in address_words else RejectReason.RESERVED, word))
    generation = v["mode"] == 2
    heads = v["heads"]

    def width(name: str) -> int:
        return (*WIDTHS, 0, 0)[v[name]]

    refuse(RejectReason.MODE, "mode", v["mode"] == 3)
    refuse(RejectReason.FETCH, "fetch", v["fetch"] == 3 or (v["fetch"] == 2 and not generation))
    refuse(RejectReason.CONTEXT, "context", v["context"] >= config.contexts)
    refuse(RejectReason.LOAD_AND_CLEAR, "flags", saves and uses(v, Flag.LOAD_STATE) and uses(v, Flag.CLEAR))
    refuse(RejectReason.PRUNE_VALUES, "flags", has_values and uses(v, Flag.PRUNE_VALUES) and not generation)
    refuse(RejectReason.HEAD_DIM, "head_dim", DIMS[v["head_dim"]] not in config.head_dims)
    refuse(RejectReason.QUERY_BITS, "query_bits", width("query_bits") not in config.query_bits)
    refuse(RejectReason.KEY_BITS, "key_bits", width("key_bits") not in config.plane_bits)
    refuse(RejectReason.VALUE_BITS, "value_bits", width("value_bits") not in config.plane_bits)
    refuse(RejectReason.HEADS, "heads", not 1 <= heads <= config.heads_max)
    refuse(RejectReason.HEAD_MASK, "head_mask", v["head_mask"] == 0 or v["head_mask"] >> heads != 0)
    refuse(RejectReason.KEYS, "keys", not 1 <= v["keys"] <= config.tokens_max)
    refuse(RejectReason.KV_ROWS, "kv_rows", v["kv_rows"] < v["keys"])
    refuse(RejectReason.VALID_LENGTH, "valid_length", not 1 <= v["valid_length"] <= v["keys"])
    refuse(RejectReason.QUERIES, "queries", v["queries"] < 1 or (generation and v["queries"] != 1))
    refuse(RejectReason.QUERY_OFFSET, "query_offset", v["query_offset"] + v["queries"] > v["keys"])
    for reason, name, flag, most in (
        (RejectReason.KEEP_TOKENS, "keep_tokens", Flag.PRUNE_TOKENS, v["keys"]),
        (RejectReason.KEEP_VALUES, "keep_values", Flag.PRUNE_VALUES, v["keys"]),
        (RejectReason.KEEP_HEADS, "keep_heads", Flag.PRUNE_HEADS, heads),
    ):
        refuse(reason, name, name in v and uses(v, flag) and not 1 <= v[name] <= most)
    refuse(RejectReason.MULTIPLIER, "multiplier", has_heads and not 1 <= v["multiplier"] <= 1 << 15)
    used = {
        "key_lsb": v["fetch"] != 0,
        "has_kv": uses(v, Flag.HAS_KV),
        "pinned": uses(v, Flag.PINNED),
        "state": uses(v, Flag.LOAD_STATE) or uses(v, Flag.STORE_STATE),
    }
    for name in ADDRESSES:
        refuse(RejectReason.ADDRESS, name, name in v and used.get(name, True) and v[name] % config.channels != 0)
    for head in range(min(heads, config.heads_max)):
        refuse(RejectReason.MANTISSA, f"mantissa{head}", v[f"mantissa{head}"] < 1 << 15)
        refuse(RejectReason.SHIFT, f"shift{head}", v[f"shift{head}"] < 4)
    lacks_progressive = not config.has(Feature.PROGRESSIVE)
    refuse(RejectReason.FEATURE, "fetch", lacks_progressive and v["fetch"] == KeyFetch.PROGRESSIVE)
    refuse(RejectReason.FEATURE, "flags", any(uses(v, flag) for flag in set(Flag) - set(flags_of(config))))
    return min(found, default=None)


def golden_accepts(config: Config, values: Mapping[str, int]) -> bool:
    """Whether golden would run the job, as far as golden knows it: it does not check addresses, contexts and bitmaps.

    All numbers of the descriptor must have a meaning.
    """
    split = values["fetch"] != 0
    if not config.has(Feature.SAVED_STATES) and (uses(values, Flag.LOAD_STATE) or uses(values, Flag.STORE_STATE)):
        return False  # a job knows nothing of states
    try:
        Job(
            mode=[Mode.SUMMARIZATION, Mode.CAUSAL, Mode.GENERATION][values["mode"]],
            head_dim=DIMS[values["head_dim"]],
            heads=values["heads"],
            keys=values["keys"],
            query_offset=values["query_offset"],
            queries=values["queries"],
            query_bits=WIDTHS[values["query_bits"]],
            key_bits=WIDTHS[values["key_bits"]] + 4 * split,
            value_bits=WIDTHS[values["value_bits"]],
            key_fetch=[KeyFetch.STATIC, KeyFetch.JOINED, KeyFetch.PROGRESSIVE][values["fetch"]],
            score_scales=tuple(
                ScoreScale(mantissa=values[f"mantissa{head}"], shift=values[f"shift{head}"])
                for head in range(min(values["heads"], config.heads_max))
            ),
            importance_multiplier=values.get("multiplier", 1),
            flat_limit=values.get("flat_limit", 0),
            valid_length=values["valid_length"],
            keep_tokens=values["keep_tokens"] if uses(values, Flag.PRUNE_TOKENS) else None,
            keep_heads=values.get("keep_heads", 1) if uses(values, Flag.PRUNE_HEADS) else None,
            keep_values=values.get("keep_values", 1) if uses(values, Flag.PRUNE_VALUES) else None,
            age_shift=values["age_shift"],
        ).check(config)
    except JobError:
        return False
    return True


def _missing(
    reason: RejectReason, name: str, every: Sequence[int], there: Sequence[int]
) -> list[tuple[RejectReason, str, dict[str, int]]]:
    """A change to each code of a size that the configuration lacks."""
    return [(reason, name, {name: code}) for code, size in enumerate(every) if size not in there]


def spoilt(config: Config, source: Random) -> Iterator[tuple[RejectReason, int, list[int]]]:
    """Accepted descriptors with one thing wrong each: the reason, the word, and the descriptor's words."""
    fields = {field.name: field for field in job_fields(config)}
    full = (1 << config.tokens_max.bit_length()) - 1
    top = config.heads_max - 1

    def with_flag(flag: Flag, **changes: int) -> dict[str, int]:
        return {"set": 1 << flag, **changes}

    generation = {"mode": 2, "queries": 1}
    everything = {"heads": config.heads_max, "head_mask": 1}
    candidates: list[tuple[RejectReason, str, dict[str, int]]] = [
        (RejectReason.MODE, "mode", {"mode": 3, "fetch": 0}),
        (RejectReason.FETCH, "fetch", {"fetch": 3}),
        (RejectReason.FETCH, "fetch", {"fetch": 2, "mode": 1, "unset": 1 << Flag.PRUNE_VALUES}),
        (RejectReason.FETCH, "fetch", {"fetch": 2, "mode": 0, "unset": 1 << Flag.PRUNE_VALUES}),
        (RejectReason.CONTEXT, "context", {"context": config.contexts}),
        (RejectReason.LOAD_AND_CLEAR, "flags", {"set": 1 << Flag.LOAD_STATE | 1 << Flag.CLEAR}),
        (RejectReason.PRUNE_VALUES, "flags", with_flag(Flag.PRUNE_VALUES, mode=0, fetch=0, keep_values=1)),
        (RejectReason.PRUNE_VALUES, "flags", with_flag(Flag.PRUNE_VALUES, mode=1, fetch=1, keep_values=1)),
        *_missing(RejectReason.HEAD_DIM, "head_dim", DIMS, config.head_dims),
        (RejectReason.QUERY_BITS, "query_bits", {"query_bits": 6}),
        *_missing(RejectReason.QUERY_BITS, "query_bits", WIDTHS, config.query_bits),
        (RejectReason.KEY_BITS, "key_bits", {"key_bits": 7}),
        *_missing(RejectReason.KEY_BITS, "key_bits", WIDTHS, config.plane_bits),
        (RejectReason.VALUE_BITS, "value_bits", {"value_bits": 7}),
        *_missing(RejectReason.VALUE_BITS, "value_bits", WIDTHS, config.plane_bits),
        (RejectReason.HEADS, "heads", {"heads": 0}),
        (RejectReason.HEADS, "heads", {"heads": config.heads_max + 1, "head_mask": 1}),
        (RejectReason.HEAD_MASK, "head_mask", {"head_mask": 0}),
        (RejectReason.HEAD_MASK, "head_mask", {"heads": top, "head_mask": 1 | 1 << top, "keep_heads": 1}),
        (RejectReason.KEYS, "keys", {"keys": 0}),
        (RejectReason.KEYS, "keys", {"keys": config.tokens_max + 1, "kv_rows": full}),
        (RejectReason.KV_ROWS, "kv_rows", {"keys": config.tokens_max, "kv_rows": config.tokens_max - 1}),
        (RejectReason.VALID_LENGTH, "valid_length", {"valid_length": 0}),
        (RejectReason.VALID_LENGTH, "valid_length", {"valid_length": config.tokens_max + 1}),
        (RejectReason.QUERIES, "queries", {"queries": 0}),
        (
            RejectReason.QUERIES,
            "queries",
            {"mode": 2, "queries": 2, "keys": 2, "query_offset": 0, "valid_length": 1, "keep_tokens": 1}
            | {"keep_values": 1, "kv_rows": full},
        ),
        (RejectReason.QUERY_OFFSET, "query_offset", {"query_offset": config.tokens_max - 1, "queries": 2, "mode": 0}),
        (RejectReason.KEEP_TOKENS, "keep_tokens", with_flag(Flag.PRUNE_TOKENS, keep_tokens=0)),
        (RejectReason.KEEP_TOKENS, "keep_tokens", with_flag(Flag.PRUNE_TOKENS, keep_tokens=config.tokens_max + 1)),
        (RejectReason.KEEP_VALUES, "keep_values", with_flag(Flag.PRUNE_VALUES, keep_values=0, **generation)),
        (RejectReason.KEEP_VALUES, "keep_values", with_flag(Flag.PRUNE_VALUES, keep_values=full, **generation)),
        (RejectReason.KEEP_HEADS, "keep_heads", with_flag(Flag.PRUNE_HEADS, keep_heads=0)),
        (RejectReason.KEEP_HEADS, "keep_heads", with_flag(Flag.PRUNE_HEADS, heads=1, head_mask=1, keep_heads=2)),
        (RejectReason.MULTIPLIER, "multiplier", {"multiplier": 0}),
        (RejectReason.MULTIPLIER, "multiplier", {"multiplier": (1 << 15) + 1}),
        (RejectReason.MULTIPLIER, "multiplier", {"multiplier": 0xFFFF}),
        *((RejectReason.ADDRESS, name, {name: 1}) for name in ("query", "key", "value", "output")),
        (RejectReason.ADDRESS, "query", {"query": config.channels >> 1}),
        (RejectReason.ADDRESS, "key_lsb", {"fetch": 1, "key_lsb": 1}),
        (RejectReason.ADDRESS, "has_kv", with_flag(Flag.HAS_KV, has_kv=1)),
        (RejectReason.ADDRESS, "pinned", with_flag(Flag.PINNED, pinned=1)),
        (RejectReason.ADDRESS, "state", with_flag(Flag.STORE_STATE, state=1)),
        (RejectReason.ADDRESS, "state", with_flag(Flag.LOAD_STATE, state=1, unset=1 << Flag.CLEAR)),
        (RejectReason.MANTISSA, "mantissa0", {"mantissa0": 0x7FFF}),
        (RejectReason.MANTISSA, f"mantissa{top}", {**everything, f"mantissa{top}": 0}),
        (RejectReason.SHIFT, "shift0", {"shift0": 3}),
        (RejectReason.SHIFT, f"shift{top}", {**everything, f"shift{top}": 0}),
        *((RejectReason.FEATURE, "flags", with_flag(flag)) for flag in Flag if flag not in flags_of(config)),
        (RejectReason.FEATURE, "fetch", {"fetch": 2, **generation}),
    ]
    possible = possible_reasons(config)
    for reason, name, changes in candidates:
        if reason not in possible or name not in fields:
            continue
        if changes.get(name, 0) >= 1 << fields[name].width:
            continue
        # Try random jobs until the change causes this refusal and no other.
        for _ in range(300):
            values = random_job(config, source)
            values |= {key: value for key, value in changes.items() if key in fields}
            values["flags"] = (values["flags"] | changes.get("set", 0)) & ~changes.get("unset", 0)
            words = pack(config, values)
            if refusal(config, words) == (reason, fields[name].word):
                yield reason, fields[name].word, words
                break
    for word in range(JOB_WORDS):
        known = sum(((1 << f.width) - 1) << f.bit for f in fields.values() if f.word == word)
        known |= ignored_bits(config).get(word, 0)
        reason = RejectReason.ADDRESS_RANGE if 10 <= word <= 17 else RejectReason.RESERVED
        for bit in range(32):
            # Take the lowest and the highest reserved bit of every byte that has some.
            free = [other for other in range(bit & ~7, (bit & ~7) + 8) if not known >> other & 1]
            if free and bit in (free[0], free[-1]):
                words = pack(config, random_job(config, source))
                words[word] |= 1 << bit
                yield reason, word, words
