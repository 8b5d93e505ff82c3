"""Writes probe.json: weights of scikit-learn's logistic regression, for `src/probe/logistic.rs`.

    pip install scikit-learn==1.9.1 && python probe.py

Made with scikit-learn 1.9.1, numpy 2.4.6, seed 0. scikit-learn minimises C · Σ loss + |w|²/2; ours is
mean loss + l2/2 · |w|², so C = 1 / (l2 · rows). Its gradient is below 1e-10 here and ours below 1e-7; with l2 ≥ 0.01 the
weights are then within 1e-5 of each other, which is the test's tolerance.
"""
import json
import pathlib

import numpy as np
from sklearn.linear_model import LogisticRegression

rows, width = 60, 12
random = np.random.default_rng(0)
x = np.round(random.normal(size=(rows, width)), 3)
y = (x[:, 0] - 0.7 * x[:, 3] + random.normal(size=rows) > 0.4).astype(int)
fits = []
for l2 in [10.0, 1.0, 0.1, 0.01]:
    model = LogisticRegression(C=1 / (l2 * rows), solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(x, y)
    fits.append({"l2": l2, "weights": model.coef_[0].tolist(), "intercept": float(model.intercept_[0])})
golden = {"width": width, "x": x.ravel().tolist(), "y": y.tolist(), "fits": fits}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(golden) + "\n")
