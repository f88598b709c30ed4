"""How a step runs: the loop, the engine, the averages, saving, reporting, what is done about bad batches."""
