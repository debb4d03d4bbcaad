"""What grew: sparsities and connectivity of a model's layer graphs."""
