"""Parts that any circuit could use: queues, memories, arithmetic, packing; and checks of a circuit's parameters."""
