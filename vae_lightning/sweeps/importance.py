"""How much each option decides about a score, from the finished jobs alone."""

from collections.abc import Sequence

from vae_lightning.sweeps.results import Result

LEAST = 5  # jobs; fewer say nothing


def importance(
    results: Sequence[Result], keys: Sequence[str], score: str | None
) -> dict[str, float]:
    """The share of each option in the score; empty if there are too few jobs.

    A random forest predicts the score from the options. The importance of an option is the increase
    of its squared error when the values of this option are permuted among the jobs, divided by the
    sum over all options.
    """
    done = [each for each in results if each.state == "finished" and score in each.scores]
    if score is None or not keys or len(done) < LEAST:
        return {}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    columns = [encoded([each.options.get(key, "") for each in done]) for key in keys]
    rows = [list(row) for row in zip(*columns, strict=True)]
    values = [each.scores[score] for each in done]
    forest = RandomForestRegressor(n_estimators=100, random_state=0).fit(rows, values)
    found = permutation_importance(
        forest, rows, values, scoring="neg_mean_squared_error", n_repeats=10, random_state=0
    )
    increases = [max(0.0, float(each)) for each in found["importances_mean"]]
    total = sum(increases)
    return (
        {key: round(increase / total, 4) for key, increase in zip(keys, increases, strict=True)}
        if total
        else {}
    )


def encoded(values: Sequence[str]) -> list[float]:
    """Numbers as they are; other texts as their place among all of them."""
    try:
        return [float(value) for value in values]
    except ValueError:
        places = {value: place for place, value in enumerate(sorted(set(values)))}
        return [float(places[value]) for value in values]
