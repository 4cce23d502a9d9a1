"""What a program calls: ``fit``, ``build`` and the scikit-learn estimator."""
