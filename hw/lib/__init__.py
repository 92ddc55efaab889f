"""Parts that any circuit could use: queues, memories, arithmetic, packing; and what parameters of a circuit must be."""
