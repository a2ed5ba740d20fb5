"""The rules of the house, its pages, recipes and packages."""
