use serde_json::Value;

use super::*;

fn numbers(value: &Value) -> Weights {
    std::array::from_fn(|at| value[at].as_f64().unwrap())
}

fn golden() -> (Vec<Sample>, Value) {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/alpaca.json")).unwrap();
    let rows = golden["fits"]["rows"].as_array().unwrap().iter();
    let samples = rows.map(|row| Sample {
        features: numbers(&row["features"]),
        label: row["label"].as_f64().unwrap(),
        weight: row["weight"].as_f64().unwrap(),
    });
    (samples.collect(), golden["fits"]["solved"].clone())
}

#[test]
fn weights_are_those_of_liblinear() {
    let (samples, solved) = golden();
    for fit in solved.as_array().unwrap() {
        let c = fit["c"].as_f64().unwrap();
        let expected = numbers(&fit["weights"]);
        for start in [[0.0; FEATURES], [5.0, -5.0, 5.0]] {
            let found = minimise(&samples, c, start).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "C = {c}: {found} and {expected}");
                assert_eq!(*found == 0.0, expected == 0.0, "C = {c}");
            }
        }
    }
}

#[test]
fn separable_and_empty_features_have_an_optimum() {
    let sample = |x: f64| Sample {
        features: [x, 0.0, x],
        label: f64::from(u8::from(x > 0.0)),
        weight: 1.0,
    };
    let samples: Vec<Sample> = [-3.0, -2.0, -0.5, 0.5, 1.0].map(sample).to_vec();
    for c in [1e-4, 1.0, 1e4] {
        let [one, none, other] = minimise(&samples, c, [0.0; FEATURES]).unwrap();
        assert_eq!(none, 0.0);
        // Two equal features share what one would get: the condition of the optimum holds for the sum.
        let gradient: f64 = samples
            .iter()
            .map(|s| c * (logistic((one + other) * s.features[0]) - s.label) * s.features[0])
            .sum();
        let expected = if one + other == 0.0 { gradient } else { -1.0 };
        assert!(
            (gradient - expected).abs() < 1e-4 && gradient >= -1.0 - 1e-4,
            "{c} {gradient}"
        );
    }
}

#[test]
fn random_problems_settle_where_no_neighbour_is_better() {
    let mut random = aligner_data::Random(3);
    for round in 0..300 {
        let scale = [1e-3, 1.0, 30.0][round % 3];
        let mut sample = || Sample {
            features: std::array::from_fn(|_| scale * (2.0 * random.unit() - 1.0)),
            label: (3.0 * random.unit() - 1.0).clamp(0.0, 1.0),
            weight: 0.1 + random.unit(),
        };
        let samples: Vec<Sample> = (0..5 + round % 40).map(|_| sample()).collect();
        for c in [1e-4, 0.5, 1e4] {
            let found = minimise(&samples, c, [0.0; FEATURES]).unwrap();
            let least = objective(&samples, c, &found);
            for at in 0..FEATURES {
                for step in [-1e-3, -1e-5, 1e-5, 1e-3] {
                    let mut neighbour = found;
                    neighbour[at] += step;
                    let value = objective(&samples, c, &neighbour);
                    assert!(value >= least * (1.0 - 1e-12), "{round} {c} {least} {value}");
                }
            }
        }
    }
}
