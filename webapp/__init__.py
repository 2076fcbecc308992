"""The pages of the demo: contents and display. `hubmodels` computes the results."""
