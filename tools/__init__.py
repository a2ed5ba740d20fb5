"""What serves who develops optforge, run from a checkout: it is no part of the package."""
