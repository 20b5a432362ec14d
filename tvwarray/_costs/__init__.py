"""How long products take: `cpu` and `gpu` models, and `calibrate` to the machine at hand."""
