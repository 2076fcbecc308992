"""Training of SimpleNet and GLASS: needs a data set, and time. Imports `hubmodels`, never the other way round."""
