//! Rows of two answers to one prompt, and what stands before it.

use super::*;

#[test]
fn preferences_in_all_their_shapes() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let said = |text: &str| json!({"role": "assistant", "content": text});
    let want = json!(["The sky is", "green.", "blue.", []]);
    let shapes = [
        json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
        json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
        json!({"prompt": [user("The sky is")], "chosen": [said("blue.")], "rejected": [said("green.")]}),
        json!({"chosen": [user("The sky is"), said("blue.")], "rejected": [user("The sky is"), said("green.")]}),
        // UltraFeedback: a prompt, and whole conversations all the same.
        json!({"prompt": "The sky is", "messages": [], "chosen": [user("The sky is"), said("blue.")],
               "rejected": [user("The sky is"), said("green.")]}),
        json!({"prompt": "\n\nHuman: The sky is\n\nAssistant:", "chosen": " blue.", "rejected": " green."}),
        json!({"conversations": [{"from": "human", "value": "The sky is"}], "chosen": {"from": "gpt", "value": "blue."},
               "rejected": {"from": "gpt", "value": "green."}}),
    ];
    for shape in shapes {
        assert_eq!(
            texts(&one(&[shape], ReadOptions::default(), Format::Preference)),
            want
        );
    }
    let turns =
        json!({"prompt": [user("a"), said("x"), user("b")], "chosen": [said("y")], "rejected": [said("z")]});
    let record = one(&[turns], ReadOptions::default(), Format::Preference);
    assert_eq!(texts(&record), json!(["b", "z", "y", [["a", "x"]]]));
    let apart = [
        json!({"chosen": "Blue it is.", "rejected": "Green it is."}),
        json!({"chosen": [user("a"), said("x")], "rejected": [user("b"), said("x")]}),
        json!({"chosen": "The same.", "rejected": "The same."}),
    ];
    let outcome = read(&apart, ReadOptions::default()).unwrap();
    assert_eq!((outcome.records.len(), outcome.reasons.len()), (0, 3));
}

#[test]
fn preferences_ask_in_the_column_that_they_have() {
    let rows = [
        (json!({"instruction": "Add.", "input": "2+2"}), "Add.\n\n2+2"),
        (json!({"instruction": "Add.", "input": " "}), "Add."),
        (json!({"instruction": "Add."}), "Add."),
        (
            json!({"instruction": [{"role": "user", "content": "Add."}], "input": "2+2"}),
            "Add.\n\n2+2",
        ),
        (
            json!({"system": "Be brief.", "question": "2+2?"}),
            "Be brief.\n\n2+2?",
        ),
        (json!({"system": "", "input": "2+2?"}), "2+2?"),
        (json!({"prompt": "2+2?", "question": "3+3?"}), "2+2?"),
        (json!({"prompt": null, "question": "2+2?"}), "2+2?"),
    ];
    let said = |text: &str| json!([{"role": "assistant", "content": text}]);
    for (row, question) in rows {
        // Both begin with the same words, which are no prompt.
        for (chosen, rejected) in [
            (json!("The sum is 4."), json!("The sum is five.")),
            (said("The sum is 4."), said("The sum is five.")),
            (said("The sum is 4."), json!("The sum is five.")),
        ] {
            let mut row = row.clone();
            row["chosen"] = chosen;
            row["rejected"] = rejected;
            assert_eq!(
                texts(&one(
                    std::slice::from_ref(&row),
                    ReadOptions::default(),
                    Format::Preference
                )),
                json!([question, "The sum is five.", "The sum is 4.", []]),
                "{row}"
            );
        }
    }
    for (row, part) in [
        (
            json!({"question": null, "chosen": "The sum is 4.", "rejected": "The sum is 5."}),
            "`question` is null",
        ),
        (
            json!({"system": "s", "input": "", "chosen": "x", "rejected": "y"}),
            "question is empty",
        ),
    ] {
        let Err(error) = read(&[row], ReadOptions::default()) else {
            panic!("{part}")
        };
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_system_column_stands_before_the_first_question() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let said = |text: &str| json!({"role": "assistant", "content": text});
    let turns = [user("a"), said("x"), user("b")];
    let want = json!([["s\n\na", "x"]]);
    for row in [
        json!({"system": "s", "prompt": turns, "chosen": "y", "rejected": "z"}),
        json!({"system": "s", "prompt": turns, "chosen": [said("y")], "rejected": [said("z")]}),
    ] {
        let record = one(&[row], ReadOptions::default(), Format::Preference);
        assert_eq!(texts(&record), json!(["b", "z", "y", want]));
    }
    let row = json!({"system": "s", "prompt": turns, "completion": "y"});
    let record = one(&[row], pair(), Format::PromptCompletion);
    assert_eq!(texts(&record), json!(["b", "y", null, want]));
    let row = json!({"system": "s", "prompt": "a", "completion": [said("y")]});
    let record = one(&[row], pair(), Format::PromptCompletion);
    assert_eq!(texts(&record), json!(["s\n\na", "y", null, []]));
    let row = json!({"system": "s", "chosen": "The sky is blue.", "rejected": "The sky is green."});
    let record = one(&[row], ReadOptions::default(), Format::Preference);
    assert_eq!(texts(&record), json!(["s\n\nThe sky is", "green.", "blue.", []]));
}
