"""One file per named dataset, each with one loader. Heavy libraries are imported inside the loaders."""
