"""Weight files, one module for each family of formats."""
