"""What every stage knows of a job in flight."""

from __future__ import annotations

from amaranth.hdl import Shape, Value, unsigned
from amaranth.lib import data

from spatten.hw.control.job_layouts import job_layout
from spatten.hw.lib.connections import optional
from spatten.hw.lib.logic import index_shape, select
from spatten.spec.config import HEAD_DIMS, SECTOR_BYTES, Config, Feature

__all__ = [
    "by_slot",
    "choice_event",
    "context_shape",
    "head_place",
    "head_shape",
    "row_count",
    "row_layout",
    "slot_event",
    "slot_layout",
    "slot_shape",
    "step_bits",
    "store_event",
]


def slot_shape(config: Config) -> Shape:
    """The number of a slot."""
    return index_shape(config.jobs_in_flight)


def context_shape(config: Config) -> Shape:
    """The number of a context."""
    return index_shape(config.contexts)


def head_shape(config: Config) -> Shape:
    """The number of a head."""
    return index_shape(config.heads_max)


def head_place(config: Config) -> data.StructLayout:
    """A head of the job in a slot."""
    return data.StructLayout({"slot": slot_shape(config), "head": head_shape(config)})


def row_count(config: Config) -> range:
    """A number of rows of a job: a query row counts once for every head."""
    return range(config.tokens_max * config.heads_max + 1)


def slot_event(config: Config) -> data.StructLayout:
    """An event of a job, or of a row of it: `valid` in the cycle in which it happens, and the job's slot."""
    return data.StructLayout({"valid": 1, "slot": slot_shape(config)})


def step_bits(config: Config) -> int:
    """Bits of the sectors from one group of heads of a plane to the next."""
    sectors = 2 * HEAD_DIMS[-1] * 16 // (8 * SECTOR_BYTES)
    return (config.tokens_max * sectors + 2 * config.channels).bit_length()


def slot_layout(config: Config) -> data.StructLayout:
    """A job in flight: the fields of its descriptor that are needed after its start, and what its start computed.

    live_heads : heads that take part
    live, first_rank, rows, reach : number of live tokens; rank of the first live query row; number of live query rows;
        keys that the longest row sees
    dense : the live tokens are 0 to live - 1, so ranks are ids
    query_origin : sector at which the query of token id 0 would lie
    query_step, key_step, lsb_step, value_step : sectors from one group of heads of a plane to the next
    order : number of the job's first head, counting the live heads of all jobs
    """
    job = job_layout(config).members
    fields = (
        "tag",
        "mode",
        "fetch",
        "context",
        "flags",
        "head_dim",
        "query_bits",
        "key_bits",
        "value_bits",
        "heads",
        "keys",
        "query_offset",
        "keep_tokens",
        "keep_values",
        "keep_heads",
        "multiplier",
        "flat_limit",
        "key",
        "key_lsb",
        "value",
        "output",
        "state",
    )
    step = unsigned(step_bits(config))
    return data.StructLayout(
        {
            **{name: job[name] for name in fields if name in job},
            "live_heads": unsigned(config.heads_max),
            "live": range(config.tokens_max + 1),
            "first_rank": range(config.tokens_max),
            "rows": range(config.tokens_max + 1),
            "reach": range(config.tokens_max + 1),
            "dense": 1,
            "query_origin": unsigned(config.sector_bits),
            "query_step": step,
            "key_step": step,
            "lsb_step": step,
            "value_step": step,
            "order": unsigned(8),
        }
    )


def row_layout(config: Config) -> data.StructLayout:
    """What travels with a query row of a head: its job's slot, the head, the number of the output row, the
    block of its values, whether it adds to the importance, and whether local pruning chooses its values (`prune`, only
    with the feature)."""
    return data.StructLayout(
        {
            "slot": slot_shape(config),
            "head": head_shape(config),
            "number": range(config.tokens_max),
            "values": index_shape(config.blocks),
            "accumulate": 1,
            **optional(config.has(Feature.PRUNE_VALUES), prune=1),
        }
    )


def by_slot(slots: object, slot: Value) -> Value:
    """A slot's record, as bits."""
    entries = [Value.cast(slots[n]) for n in range(len(slots))]  # type: ignore[index, arg-type]
    return select(entries, slot)


def choice_event(config: Config) -> data.StructLayout:
    """It is settled who stays after a job: `valid` in the cycle in which this happens, the job's slot and context, the
    heads that its context keeps, and whether the context's state is yet to be stored (`stores`, only where states are
    saved)."""
    return data.StructLayout(
        {
            "valid": 1,
            "slot": slot_shape(config),
            "context": context_shape(config),
            "kept_heads": unsigned(config.heads_max),
            **optional(config.has(Feature.SAVED_STATES), stores=1),
        }
    )


def store_event(config: Config) -> data.StructLayout:
    """The state of a context is being stored while `waits` is set, and has been in the cycle in which `done` is set
    with it."""
    return data.StructLayout({"waits": 1, "done": 1, "context": context_shape(config)})
