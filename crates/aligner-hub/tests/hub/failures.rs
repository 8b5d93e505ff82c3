//! Downloads that break off, servers that fail, and repositories that are none.

use super::*;

#[test]
fn a_download_that_was_cut_goes_on_where_it_stopped() {
    let lab = Lab::new();
    for _ in 0..3 {
        lab.server.fail("/cdn/model.safetensors", Fault::Cut(0));
    }
    // Three tries without a byte are all that this policy allows.
    let error = lab.get().unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 3, .. }), "{error}");

    lab.server.fail("/cdn/model.safetensors", Fault::Cut(300_000));
    for _ in 0..2 {
        lab.server.fail("/cdn/model.safetensors", Fault::Cut(0));
    }
    let error = lab.get().unwrap_err();
    assert!(error.to_string().contains("run it again"), "{error}");
    assert_eq!(std::fs::metadata(lab.part()).unwrap().len(), 300_000);
    assert!(
        !lab.repo()
            .join("snapshots")
            .join(COMMIT)
            .join("model.safetensors")
            .exists()
    );
    assert!(
        !lab.repo().join("refs/main").exists(),
        "the revision is noted when it is whole"
    );

    lab.server.take_seen();
    let dir = lab.get().unwrap();
    lab.assert_whole(&dir);
    let seen = lab.server.take_seen();
    assert_eq!(
        bodies(&seen),
        [
            "/org/tiny/resolve/1111111111111111111111111111111111111111/model.safetensors",
            "/cdn/model.safetensors"
        ]
    );
    let ranges: Vec<_> = seen
        .iter()
        .filter(|seen| seen.at_cdn)
        .map(|seen| seen.header("range"))
        .collect();
    assert_eq!(ranges, [Some("bytes=300000-")]);
}

#[test]
fn a_connection_that_breaks_is_taken_up_again_in_the_same_run() {
    let lab = Lab::new();
    // More breaks than tries are allowed: each brings something.
    for _ in 0..5 {
        lab.server.fail("/cdn/model.safetensors", Fault::Cut(100_000));
    }
    lab.assert_whole(&lab.get().unwrap());
    let seen = lab.server.take_seen();
    let ranges: Vec<_> = seen
        .iter()
        .filter(|seen| seen.at_cdn)
        .map(|seen| seen.header("range"))
        .collect();
    assert_eq!(ranges[..3], [None, Some("bytes=100000-"), Some("bytes=200000-")]);
    assert_eq!(ranges.len(), 6);
}

#[test]
fn a_server_without_ranges_sends_everything_and_nothing_is_doubled() {
    let lab = Lab::new();
    lab.server.fail("/cdn/model.safetensors", Fault::Cut(300_000));
    lab.server.fail("/cdn/model.safetensors", Fault::NoRange);
    lab.assert_whole(&lab.get().unwrap());
}

#[test]
fn a_part_that_is_too_long_or_damaged_is_thrown_away() {
    for part in [noise(700_001), vec![0; 1000], vec![0; 700_000]] {
        let lab = Lab::new();
        std::fs::create_dir_all(lab.part().parent().unwrap()).unwrap();
        std::fs::write(lab.part(), &part).unwrap();
        lab.assert_whole(&lab.get().unwrap());
    }
}

#[test]
fn a_damaged_body_never_becomes_a_file() {
    let lab = Lab::new();
    lab.server.fail("/cdn/model.safetensors", Fault::Corrupt);
    let error = lab.get().unwrap_err();
    assert!(
        matches!(error, HubError::Damaged { what: "SHA-256", .. }),
        "{error}"
    );
    assert!(!lab.part().exists() && !lab.repo().join("blobs").join(sha256(&lab.weights)).exists());
    lab.assert_whole(&lab.get().unwrap());
}

#[test]
fn errors_that_pass_are_waited_for() {
    let lab = Lab::new();
    lab.server.fail("/revision/main", Fault::Status(500, vec![]));
    lab.server.fail("/revision/main", Fault::Cut(20));
    lab.server.fail(
        "/config.json",
        Fault::Status(429, vec![("Retry-After", "1".into())]),
    );
    let started = std::time::Instant::now();
    lab.assert_whole(&lab.get().unwrap());
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "Retry-After was not honoured"
    );
}

#[test]
fn errors_that_stay_are_told() {
    let lab = Lab::new();
    for _ in 0..3 {
        lab.server.fail("/revision/main", Fault::Status(502, vec![]));
    }
    let error = lab.get().unwrap_err();
    assert!(matches!(error, HubError::Network { attempts: 3, .. }), "{error}");
    lab.server.fail(
        "/revision/main",
        Fault::Status(429, vec![("Retry-After", "300".into())]),
    );
    let error = lab.get().unwrap_err();
    assert!(
        matches!(&error, HubError::RateLimited { wait, .. } if wait.as_secs() == 300),
        "{error}"
    );
    let error = resolve(lab.config(), "org/other").unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("the repository org/other"), "{error}");
    assert!(error.to_string().contains(lab.server.endpoint()), "{error}");
    let error = resolve(lab.config(), "org/tiny@v9").unwrap_err().to_string();
    assert!(error.contains("revision v9 of org/tiny"), "{error}");
}

#[test]
fn a_repository_that_is_no_model_is_told_before_anything_is_fetched() {
    let server = Server::start(
        "org/gguf",
        &[
            ("model.gguf", b"x"),
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
        ],
    );
    let cache = tempfile::tempdir().unwrap();
    let config = HubConfig {
        endpoint: server.endpoint().to_string(),
        cache: cache.path().to_path_buf(),
        ..Lab::new().config()
    };
    let error = resolve(config, "org/gguf").unwrap_err().to_string();
    assert!(error.contains("it has no model.safetensors"), "{error}");
    assert_eq!(bodies(&server.take_seen()), Vec::<&str>::new());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told() {
    let lab = Lab::new();
    std::fs::create_dir_all(lab.part().parent().unwrap()).unwrap();
    // Writes to this device fail as on a full disk.
    std::os::unix::fs::symlink("/dev/full", lab.part()).unwrap();
    let error = lab.get().unwrap_err();
    assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
}
