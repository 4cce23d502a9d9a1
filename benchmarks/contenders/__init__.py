"""Programs that train the same model without this package, for comparison."""
