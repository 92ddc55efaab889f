"""Control, what happens and when: jobs, the planner, rows of the arrays, reads of the rings, saved states.

Words that have one meaning in here, and that several files need:

- A *row* by itself is a query row of one head: its query, scores, probabilities and result. A *live row* is
  `topk_lanes` ids of a job's live list, a *block row* is what a bank-wide read of K or V gets (`spec.row_format`), a
  *plane row* is a token's codes in memory.
- A *block* is the space of a head's queries, keys or values in their ring, a *row group* the part of it that one
  request to the fetch unit fills.
- A *slot* is a job's place among those in flight; a *stash slot* is a place for a row's query and scores.
- A *flat* row is one whose first pass shows no probability that is high enough: the sum of its exponentials exceeds the
  job's `flat_limit` (`hw.datapath.softmax`). It comes *again*, with its LSBs: that is its second pass.
- The *refetch area* is the part of the key buffer behind the key ring, sectors `key_ring_sectors` to
  `key_ring_sectors + lsb_sectors - 1` of each lane, where the keys of a flat row are put. In the code its addresses are
  `linear`, since the fetch unit does not wrap them: who writes and reads there does, at a `limit` of the row's own.
"""
