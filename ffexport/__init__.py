"""ffexport: turn a trained bundle into the graphs that devices run, and prove them."""
