"""Makes alpaca.json: L1 logistic fits and length-controlled win rates by scikit-learn and pandas, on rows of its own.

    pip install scikit-learn==1.9.1 numpy==2.4.6 pandas==3.1.1
    python make_alpaca.py

Seed 0. `fits` are LogisticRegression(penalty l1, liblinear, no intercept) on rows that enter twice, with label 1 and with
label 0, at a tolerance of 1e-12: the optimum to about 1e-6, which is the tests' tolerance. `models` are what AlpacaEval's
length_controlled_v1 computes, LogisticRegressionCV over GroupKFold(5), at that tolerance instead of liblinear's 1e-4.
"""
import json
import pathlib
import warnings

import numpy as np
import pandas as pd
import sklearn
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

# scikit-learn 1.9 asks for l1_ratio in place of penalty, which AlpacaEval sets.
warnings.filterwarnings("ignore")
sklearn.set_config(enable_metadata_routing=True)
EXACT = dict(random_state=0, penalty="l1", solver="liblinear", fit_intercept=False, tol=1e-12, max_iter=100000)
random = np.random.default_rng(0)


def twice(x, y, weight):
    """Rows with label 1, then with label 0; the weights of both; what the scorer needs."""
    share = np.r_[y, 1 - y]
    weight = np.r_[weight, weight]
    return np.r_[x, x], np.r_[np.ones(len(y)), np.zeros(len(y))].astype(int), share * weight, share, weight


def loss(y_true, y_pred, share, weight):
    y = np.where(y_true == 1, share, 1 - share)
    p = np.clip(y_pred, 1e-15, 1 - 1e-15)
    return -np.mean(weight * (y * np.log(p) + (1 - y) * np.log(1 - p)))


def fits():
    x = random.normal(size=(40, 3)).round(4)
    y = (1 / (1 + np.exp(-(x @ [1.5, -0.7, 0.0]) + random.normal(size=40)))).round(4)
    y[:3] = [0, 1, 0.5]
    weight = random.choice([0.1, 1.0], size=40)
    rows = [dict(features=list(f), label=l, weight=w) for f, l, w in zip(x, y, weight)]
    data, label, scaled, _, _ = twice(x, y, weight)
    solved = []
    for c in [1e-4, 0.05, 0.2, 1.0, 21.5443469, 1e4]:
        model = LogisticRegression(C=c, **EXACT).fit(data, label, sample_weight=scaled)
        solved.append(dict(c=c, weights=model.coef_[0].tolist()))
    return dict(rows=rows, solved=solved)


def model(strength, taste, count=60):
    difficulty = random.normal(size=count).round(4)
    length = random.integers(200, 3000, size=count)
    instructions = [dict(index=i, instruction=f"Question {i}", instruction_difficulty=d) for i, d in enumerate(difficulty)]
    gamed = []
    for factor in [1.6, 0.4]:
        delta = length - (length * factor * random.uniform(0.7, 1.3, size=count)).astype(int)
        z = (delta / delta.std(ddof=1)).round(6)
        liked = 1 / (1 + np.exp(taste * np.tanh(z) - 0.8 * difficulty + random.normal(size=count)))
        gamed += [dict(index=i, std_delta_len=a, preference=b) for i, (a, b) in enumerate(zip(z, liked.round(6)))]
    other = (length * random.uniform(0.3, 1.5, size=count)).astype(int)
    liked = 1 / (1 + np.exp(taste * np.tanh((length - other) / 800) - 0.6 * difficulty - strength + random.normal(size=count)))
    preference = [*(1 + liked).round(6)]
    preference[3], preference[7], preference[11], preference[12] = 0.0, 1.5, None, 2.0
    annotations = [
        dict(index=i, len_1=int(a), len_2=int(b), preference=p, generator_1="base", generator_2="model")
        for i, (a, b, p) in enumerate(zip(length, other, preference))
    ]
    return dict(instructions=instructions, gamed=gamed, annotations=annotations,
                expected=expected(annotations, difficulty, gamed))


def expected(annotations, difficulty, gamed):
    own, gamed = pd.DataFrame(annotations), pd.DataFrame(gamed)
    y = own["preference"].astype(float).replace({0.0: 1.5}) - 1
    delta = own["len_1"] - own["len_2"]
    features = np.c_[np.tanh(delta / delta.std()), difficulty, np.ones(len(own))]
    others = np.c_[np.tanh(gamed["std_delta_len"]), difficulty[gamed["index"]], np.zeros(len(gamed))]
    used = y.notna().to_numpy()
    x = np.r_[others, features[used]]
    label = np.r_[gamed["preference"], y[used]]
    data, labels, scaled, share, weight = twice(x, label, np.r_[np.full(len(gamed), 0.1), np.ones(used.sum())])
    scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
    scorer = scorer.set_score_request(share=True, weight=True)
    fitted = LogisticRegressionCV(cv=GroupKFold(5), scoring=scorer, use_legacy_attributes=True, **EXACT)
    fitted.set_fit_request(sample_weight=True)
    groups = np.r_[np.arange(len(label)), np.arange(len(label))]
    fitted.fit(data, labels, sample_weight=scaled, groups=groups, share=share, weight=weight)
    predicted = pd.Series(fitted.predict_proba(np.c_[np.zeros(len(own)), features[:, 1:]])[:, 1])
    drawn = (y == 0.5).sum()
    return dict(
        win_rate=y.mean() * 100, standard_error=y.sem() * 100, lc_win_rate=predicted.mean() * 100,
        lc_standard_error=predicted.sem() * 100, n_wins=int((y > 0.5).sum()), n_wins_base=int((y < 0.5).sum()),
        n_draws=int(drawn), n_total=int(used.sum()), n_dropped=int((~used).sum()),
        discrete_win_rate=100 * ((y > 0.5).sum() + drawn / 2) / used.sum(), avg_length=int(own["len_2"].mean()),
        glm=dict(zip(["delta_len", "instruction_difficulty", "not_gamed", "c"], [*fitted.coef_[0], fitted.C_[0]])))


made = dict(
    versions=dict(sklearn=sklearn.__version__, numpy=np.__version__, pandas=pd.__version__),
    fits=fits(), models=[model(-1.5, 1.2), model(0.3, 2.0), model(1.0, 0.0)])
path = pathlib.Path(__file__).with_name("alpaca.json")
path.write_text(json.dumps(made, separators=(",", ":"), default=float).replace('},{', '},\n{') + "\n")
