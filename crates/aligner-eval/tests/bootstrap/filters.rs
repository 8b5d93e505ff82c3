//! Which corrections become rows.

use super::*;

#[test]
fn what_is_no_correction_is_dropped_and_counted() {
    let mut outcomes = four();
    outcomes.push(outcome("copy", "Is ice cold?", "Yes.\n", " Yes."));
    outcomes.push(outcome("empty", "Is fire hot?", "Yes.", " \n"));
    outcomes.push(outcome("mute", " ", "Yes.", "What do you mean?"));
    let mut cut = outcome("cut", "Tell me of bees.", "They fly.", "Bees are insects which");
    cut.is_cut = true;
    outcomes.push(cut);
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["1", "2", "3", "4"]);
    assert_eq!(
        dropped(&rows.counts),
        [
            Reason::EmptyQuestion,
            Reason::EmptyCorrection,
            Reason::Cut,
            Reason::Copy
        ]
        .map(|reason| (reason, 1))
    );
    assert_eq!(
        (rows.counts.input, rows.counts.kept, rows.counts.train),
        (8, 4, 4)
    );
}

#[test]
fn edits_are_bounded_on_both_sides() {
    let outcomes = [
        outcome("little", "One?", "a b c d e f g h i j", "a b c d e f g h i x"),
        outcome("some", "Two?", "a b c d", "a b x y"),
        outcome("all", "Three?", "a b", "x y"),
    ];
    let filters = Filters {
        min_edit_ratio: Some(0.2),
        max_edit_ratio: Some(0.5),
        ..Filters::default()
    };
    let rows = bootstrap::rows(&outcomes, &[], &with_filters(filters)).unwrap();
    assert_eq!(ids(&rows), ["some"]);
    assert_eq!(
        dropped(&rows.counts),
        [(Reason::EditTooSmall, 1), (Reason::EditTooLarge, 1)]
    );
}

#[test]
fn rewards_must_rise_and_costs_must_not() {
    let four = four();
    let scores = [
        scored("1", ScoreKind::Reward, 1.0, 2.5),
        scored("2", ScoreKind::Reward, 1.0, 1.5),
        scored("3", ScoreKind::Reward, -2.0, -0.5),
        scored("3", ScoreKind::Cost, 0.0, 0.5),
        scored("1", ScoreKind::Cost, 0.0, -0.5),
        scored("9", ScoreKind::Cost, 0.0, -0.5),
    ];
    let scores = of(&four, &scores);
    let filters = Filters {
        min_reward_margin: Some(1.0),
        ..Filters::default()
    };
    let rows = bootstrap::rows(&four, &scores, &with_filters(filters.clone())).unwrap();
    assert_eq!(ids(&rows), ["1"]);
    assert_eq!(
        dropped(&rows.counts),
        [Reason::NoReward, Reason::RewardTooSmall, Reason::HigherCost].map(|reason| (reason, 1))
    );
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.contains("1 scores are of no correction"))
    );
    let filters = Filters {
        allow_higher_cost: true,
        ..filters
    };
    assert_eq!(
        ids(&bootstrap::rows(&four, &scores, &with_filters(filters)).unwrap()),
        ["1", "3"]
    );
    // Without a margin the cost alone is looked at, and those without one are named.
    let rows = bootstrap::rows(&four, &scores, &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["1", "2", "4"]);
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.starts_with("2 of 3 corrections have no cost"))
    );
    // Another correction has no score yet, whatever the one before it had.
    let mut others = four.clone();
    others[0].output = "Florence.".into();
    let rows = bootstrap::rows(&others, &scores, &BootstrapOptions::default()).unwrap();
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.contains("3 scores are of no correction"))
    );
}

#[test]
fn scores_that_cannot_be_trusted_are_refused() {
    let margin = with_filters(Filters {
        min_reward_margin: Some(0.0),
        ..Filters::default()
    });
    let reward = |id: &str, output: f64| scored(id, ScoreKind::Reward, 0.0, output);
    assert!(error(&four(), &[], &margin).contains("score the corrections first"));
    let other = Scored {
        scorer: "balance".into(),
        ..reward("2", 1.0)
    };
    assert!(error(&four(), &[reward("1", 1.0), other], &margin).contains("balance, scales"));
    assert!(error(&four(), &[reward("1", 1.0), reward("1", 2.0)], &margin).contains("scored twice"));
    assert!(error(&four(), &[reward("1", f64::NAN)], &margin).contains("is no number"));
    let mut twice = four();
    twice[1].item.id = "1".into();
    assert!(error(&twice, &[reward("1", 1.0)], &margin).contains("cannot tell them apart"));
}

#[test]
fn of_a_repeated_question_the_best_correction_stays_else_the_first() {
    let outcomes = [
        outcome(
            "a",
            "What happens if you eat watermelon seeds?",
            "They grow.",
            "Nothing.",
        ),
        outcome(
            "b",
            "What happens if you eat watermelon seeds?",
            "They grow.",
            "Nothing happens.",
        ),
        outcome(
            "c",
            "what happens to you if you eat watermelon seeds",
            "You die.",
            "Nothing at all.",
        ),
        outcome("d", "Who wrote Emma?", "Emma did.", "Jane Austen."),
    ];
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["a", "d"]);
    assert_eq!(
        dropped(&rows.counts),
        [(Reason::Duplicate, 1), (Reason::NearDuplicate, 1)]
    );
    let reward = |id: &str, output: f64| scored(id, ScoreKind::Reward, 0.0, output);
    let scores = of(
        &outcomes,
        &[reward("a", -1.0), reward("b", 2.0), reward("c", 1.0)],
    );
    let rows = bootstrap::rows(&outcomes, &scores, &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["b", "d"]);
    let exact = with_filters(Filters {
        near_threshold: None,
        ..Filters::default()
    });
    assert_eq!(
        ids(&bootstrap::rows(&outcomes, &scores, &exact).unwrap()),
        ["b", "c", "d"]
    );
    // Another conversation makes another question.
    let mut outcomes = outcomes[..2].to_vec();
    outcomes[1].item.chat_history = vec![turn("My child ate something odd.", "What was it?")];
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert_eq!(ids(&rows), ["a", "b"]);
}

#[test]
fn new_refusals_are_named_or_dropped() {
    let mut outcomes = four();
    outcomes[0].output = "I'm sorry, but I can't help with that.".into();
    let rows = bootstrap::rows(&outcomes, &[], &BootstrapOptions::default()).unwrap();
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.starts_with("1 of 4 corrections refuse"))
    );
    let options = with_filters(Filters {
        drop_new_refusals: true,
        ..Filters::default()
    });
    let rows = bootstrap::rows(&outcomes, &[], &options).unwrap();
    assert_eq!(dropped(&rows.counts), [(Reason::NewRefusal, 1)]);
    assert!(!rows.warnings.iter().any(|warning| warning.contains("refuse")));
}

#[test]
fn of_several_upstreams_one_is_picked_or_all_are_wanted() {
    let mut outcomes = four();
    outcomes[1].item.upstream = "large-chat".into();
    assert!(error(&outcomes, &[], &BootstrapOptions::default()).contains("(large-chat, small-chat)"));
    let pick = |upstream| BootstrapOptions {
        upstream,
        ..BootstrapOptions::default()
    };
    let one = pick(Upstreams::One("large-chat".into()));
    let rows = bootstrap::rows(&outcomes, &[], &one).unwrap();
    assert_eq!(
        (ids(&rows), &*rows.upstreams),
        (vec!["2".to_string()], &["large-chat".to_string()][..])
    );
    assert_eq!(dropped(&rows.counts), [(Reason::OtherUpstream, 3)]);
    let rows = bootstrap::rows(&outcomes, &[], &pick(Upstreams::All)).unwrap();
    assert_eq!((rows.counts.kept, rows.upstreams.len()), (4, 2));
    assert!(
        rows.warnings
            .iter()
            .any(|warning| warning.contains("of 2 upstreams"))
    );
}

#[test]
fn dpo_and_kto_say_what_was_measured() {
    for (format, warns) in [
        (BootstrapFormat::Sft, false),
        (BootstrapFormat::Qac, false),
        (BootstrapFormat::Dpo, true),
        (BootstrapFormat::Kto, true),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let four = four();
        let rows = bootstrap::rows(&four, &[], &with_format(format)).unwrap();
        let summary = bootstrap::write(&rows, dir.path(), &[], false).unwrap();
        let manifest = BootstrapManifest::read(dir.path()).unwrap();
        let has = |warnings: &[String]| {
            let numbers = ["+14.0", "+63.7", "−51.3"];
            warnings
                .iter()
                .any(|warning| numbers.iter().all(|number| warning.contains(number)))
        };
        assert_eq!(
            [has(&summary.warnings), has(&manifest.warnings)],
            [warns; 2],
            "{format}"
        );
        assert_eq!(summary.to_string().contains("−51.3"), warns);
    }
}
