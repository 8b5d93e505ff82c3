//! Rounds, their licences and their parents.

use super::*;

/// Writes a round whose parent is `parent`; gives its manifest.
fn round(dir: &Path, parent: Option<&Path>, licences: Licences) -> BootstrapManifest {
    let four = four();
    let options = BootstrapOptions {
        parent: parent.map(Path::to_path_buf),
        licences,
        ..BootstrapOptions::default()
    };
    let rows = bootstrap::rows(&four, &[], &options).unwrap();
    bootstrap::write(&rows, dir, &[], false).unwrap();
    BootstrapManifest::read(dir).unwrap()
}

#[test]
fn rounds_count_up_and_licences_are_carried_on() {
    let lab = tempfile::tempdir().unwrap();
    let dir = |name: &str| lab.path().join(name);
    let mut aligner = AlignerManifest::new(PromptTemplate::default(), "", "base");
    aligner.data_licence = Some("CC-BY-NC-4.0".into());
    std::fs::create_dir(dir("fixer")).unwrap();
    aligner.write(&dir("fixer")).unwrap();
    let mut licences = Licences::default();
    licences.read_aligner("fixer", &dir("fixer")).unwrap();
    let first = round(&dir("1"), None, licences);
    assert_eq!((first.round, &first.parent, first.lineage.len()), (1, &None, 0));
    let free = Licences {
        aligners: BTreeMap::from([("fixer".into(), Some("MIT".into()))]),
        datasets: BTreeMap::from([("own".into(), "CC0-1.0".into())]),
    };
    round(&dir("2"), Some(&dir("1")), free.clone());
    let third = round(&dir("3"), Some(&dir("2").join("manifest.json")), free);
    assert_eq!(third.round, 3);
    let rounds: Vec<u32> = third.lineage.iter().map(|ancestor| ancestor.round).collect();
    assert_eq!(rounds, [1, 2]);
    for ancestor in &third.lineage {
        let path = dir(&ancestor.round.to_string()).join("manifest.json");
        assert_eq!(facts::file(&path).unwrap()["sha256"], ancestor.manifest.as_str());
    }
    assert_eq!(third.parent, Some(third.lineage[1].manifest.clone()));
    let forbids = |manifest: &BootstrapManifest| -> Vec<String> {
        let warnings = manifest.warnings.iter();
        warnings
            .filter(|warning| warning.contains("forbids commercial use"))
            .cloned()
            .collect()
    };
    for manifest in [&first, &third] {
        let [warning] = &forbids(manifest)[..] else {
            panic!("{:?}", manifest.warnings)
        };
        assert!(
            warning.starts_with("CC-BY-NC-4.0") && warning.contains("fixer, round 1"),
            "{warning}"
        );
    }
    assert!(
        first
            .warnings
            .iter()
            .any(|warning| warning == "no data licence is known of: data set own")
    );
    assert!(
        !third
            .warnings
            .iter()
            .any(|warning| warning.contains("no data licence"))
    );
    assert_eq!(third.licences.len(), 3);
}

#[test]
fn an_aligner_that_is_not_there_is_told_with_a_licence_and_without() {
    let lab = tempfile::tempdir().unwrap();
    let mut licences = Licences::default();
    let missing = licences.read_aligner("fixer", lab.path()).unwrap_err();
    let missing = missing.to_string();
    assert!(
        missing.contains("no aligner.json") && missing.contains("fixer"),
        "{missing}"
    );
    let aligner = AlignerManifest::new(PromptTemplate::default(), "", "base");
    aligner.write(lab.path()).unwrap();
    licences.read_aligner("mixer", lab.path()).unwrap();
    let options = BootstrapOptions {
        licences,
        ..BootstrapOptions::default()
    };
    let error = error(&four(), &[], &options);
    assert!(
        error.contains("the Aligner \"mixer\"") && error.contains("there are fixer"),
        "{error}"
    );
}

#[test]
fn an_evaluation_that_has_not_ended_is_told() {
    let facts = |text: &str| serde_json::from_str(text).unwrap();
    let run = facts(r#"{"run": {"items": 3, "aligners": [{"name": "fixer"}, {"name": "mixer"}]}}"#);
    assert_eq!(bootstrap::planned(&run), Some(6));
    assert_eq!(bootstrap::planned(&facts(r#"{"import": {"rows": 4}}"#)), Some(4));
    assert_eq!(bootstrap::planned(&facts(r#"{"run": {}, "judge": 1}"#)), None);
    for (planned, is_told) in [(Some(6), true), (Some(4), false), (None, false)] {
        let options = BootstrapOptions {
            planned,
            ..BootstrapOptions::default()
        };
        let four = four();
        let warnings = bootstrap::rows(&four, &[], &options).unwrap().warnings;
        let told = warnings
            .iter()
            .any(|warning| warning.contains("4 of 6 corrections are there"));
        assert_eq!(told, is_told, "{warnings:?}");
    }
}

#[test]
fn a_parent_that_was_changed_or_is_none_is_refused() {
    let lab = tempfile::tempdir().unwrap();
    round(&lab.path().join("1"), None, Licences::default());
    let path = lab.path().join("1/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, part) in [
        ("\"round\": 1", "\"round\": 7", "do not count from 1"),
        (
            "\"parent\": null",
            "\"parent\": \"sha256:0\"",
            "not the last round",
        ),
        (
            "\"format_version\": 1",
            "\"format_version\": 2",
            "has format version 2",
        ),
        ("aligner-bootstrap", "aligner-other", "is no manifest"),
        ("{", "[", "is no manifest"),
    ] {
        assert!(text.contains(from));
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let options = BootstrapOptions {
            parent: Some(path.clone()),
            ..BootstrapOptions::default()
        };
        let error = error(&four(), &[], &options);
        assert!(error.contains(part) && error.contains("manifest.json"), "{error}");
    }
}
