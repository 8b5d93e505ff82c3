//! PyTorch's files are read to the last bit, and nothing else is; see `golden/make_pytorch.py` for their making.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use aligner_model::weights::{PytorchSource, SafetensorsSource, TensorSource};
use aligner_model::{Loaded, load_dir};
use burn::tensor::Device;
use common::files::{Entry, Member, archive, dictionary, f32s, member, pickle, text, torch_file};
use common::{assert_close, golden, golden_dir, greedy, host, ids};

/// A folder of `golden/pytorch`, and the variant whose weights are in it.
const FOLDERS: [(&str, &str); 3] = [
    ("single", "tied"),
    ("sharded", "sharded-bf16-linear"),
    ("views", "f16"),
];

fn load(folder: &str, variant: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden_dir("pytorch").join(folder)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    std::fs::copy(
        golden_dir(variant).join("config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    load_dir(dir.path(), &Device::flex()).unwrap()
}

/// What is done to something whole, and what the error must say.
type Damage<'a, T> = (&'a dyn Fn(&mut T), &'a str);

#[test]
fn logits_and_greedy_tokens_equal_transformers() {
    let device = Device::flex();
    for (folder, variant) in FOLDERS {
        let (_, golden) = golden(variant, &device);
        let model = load(folder, variant);
        let hidden = model.decoder.forward(ids(&[&golden.first], &device), None);
        let logits = model.decoder.logits(hidden);
        let tokens = golden.first.len();
        let want: Vec<f32> = golden
            .last_two_logits
            .concat()
            .iter()
            .map(|&logit| logit as f32)
            .collect();
        assert_close(&host(logits.narrow(1, tokens - 2, 2)), &want, 1e-4, folder);
        let mut cache = model.decoder.new_cache(1, 64);
        let got = greedy(&model.decoder, &golden.first, golden.greedy.len(), &mut cache);
        assert_eq!(got, golden.greedy, "{folder}");
    }
}

#[test]
fn every_tensor_equals_the_one_in_safetensors_also_transposed() {
    for (folder, variant) in FOLDERS {
        let mut want = SafetensorsSource::open(&golden_dir(variant)).unwrap();
        let mut got = PytorchSource::open(&golden_dir("pytorch").join(folder)).unwrap();
        let names = want.names();
        assert!(names.len() > 20);
        for name in names {
            assert_eq!(
                got.read(&name).unwrap(),
                want.read(&name).unwrap(),
                "{folder} {name}"
            );
            let (got, want) = (
                got.read_transposed(&name).unwrap(),
                want.read_transposed(&name).unwrap(),
            );
            assert_eq!(got, want, "{folder} {name}");
        }
    }
}

#[test]
fn tied_tensors_are_two_names_of_one_storage() {
    let mut source = PytorchSource::open(&golden_dir("pytorch/single")).unwrap();
    let head = source.read("lm_head.weight").unwrap().unwrap();
    assert_eq!(Some(head), source.read("model.embed_tokens.weight").unwrap());
}

#[test]
fn a_buffer_that_is_no_weight_may_be_there_but_not_be_read() {
    let mut source = PytorchSource::open(&golden_dir("pytorch/single")).unwrap();
    assert!(source.names().contains(&"step".into()));
    let error = source.read("step").unwrap_err().to_string();
    assert!(
        error.contains("step is Long") && error.contains("BFloat16"),
        "{error}"
    );
}

#[test]
fn safetensors_are_taken_where_both_are() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden_dir("tied").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("pytorch_model.bin"), "no weights").unwrap();
    load_dir(dir.path(), &Device::flex()).unwrap();
}

fn open(bytes: Vec<u8>) -> Result<PytorchSource, String> {
    PytorchSource::from_bytes(Path::new("pytorch_model.bin"), bytes).map_err(|error| error.to_string())
}

/// The error of a file with this pickle and a storage `0` of six floats.
fn pickle_error(pickle: impl Into<Vec<u8>>) -> String {
    open(torch_file(pickle.into(), &[("0", f32s(6))])).unwrap_err()
}

fn whole() -> Entry {
    Entry::whole("w", "FloatStorage", "0", &[2, 3])
}

#[test]
fn the_hand_made_file_is_read() {
    let mut source = open(torch_file(pickle(&[whole()]), &[("0", f32s(6))])).unwrap();
    let tensor = source.read("w").unwrap().unwrap();
    assert_eq!(
        (tensor.shape, tensor.values),
        (vec![2, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    );
    assert_eq!(
        source.read_transposed("w").unwrap().unwrap().values,
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    );
}

#[test]
fn files_of_other_formats_are_named() {
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    let error = open(legacy).err().unwrap();
    assert!(
        error.contains("before 1.6") && error.contains("torch.save(torch.load("),
        "{error}"
    );
    for (bytes, reason) in [
        (&b""[..], "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"GGUF\x03\0\0\0", "GGUF file"),
        (b"{}", "no file of torch.save"),
    ] {
        let error = open(bytes.to_vec()).err().unwrap();
        assert!(error.contains(reason), "{error}");
    }
    let script = [
        member("m/data.pkl", pickle(&[whole()])),
        member("m/constants.pkl", ""),
    ];
    let error = open(archive(&script)).err().unwrap();
    assert!(error.contains("TorchScript"), "{error}");
    let big = [
        member("m/data.pkl", pickle(&[whole()])),
        member("m/byteorder", "big"),
    ];
    let error = open(archive(&big)).err().unwrap();
    assert!(error.contains("byte order \"big\""), "{error}");
    let error = open(archive(&[member("word/document.xml", "")])).err().unwrap();
    assert!(error.contains("without data.pkl"), "{error}");
    let two = [member("a/data.pkl", ""), member("b/data.pkl", "")];
    let error = open(archive(&two)).err().unwrap();
    assert!(error.contains("two pickles"), "{error}");
}

#[test]
fn anything_that_could_run_code_is_refused_by_name() {
    for (pickle, name) in [
        (
            &b"\x80\x02cposix\nsystem\nX\x04\0\0\0true\x85R."[..],
            "posix.system",
        ),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (
            b"\x80\x02ctransformers.models.llama\nLlamaForCausalLM\n)\x81}b.",
            "LlamaForCausalLM",
        ),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (
            b"\x80\x02ctorch.storage\n_load_from_bytes\n.",
            "torch.storage._load_from_bytes",
        ),
    ] {
        let error = pickle_error(pickle);
        assert!(
            error.contains(name) && error.contains("could run code"),
            "{error}"
        );
    }
    // The older ways to make an object, and references to a registry of codes.
    for pickle in [
        &b"\x80\x02(iposix\nsystem\n."[..],
        b"\x80\x02(cposix\nsystem\no.",
        b"\x80\x02\x82\x01.",
    ] {
        let error = pickle_error(pickle);
        assert!(error.contains("opcode") || error.contains("posix"), "{error}");
    }
}

#[test]
fn pickles_that_do_not_add_up() {
    for (pickle, reason) in [
        (&b""[..], "is cut"),
        (b"\x80\x02", "is cut"),
        (b"\x80\x02}X\xff\xff\xff\xff", "is cut"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "is cut"),
        (b"\x80\x01}.", "protocol 1"),
        (b"\x80\x09}.", "protocol 9"),
        (b".", "not there"),
        (b"\x80\x02}.", "no tensors"),
        (b"\x80\x02].", "no dictionary"),
        (b"\x80\x02NR.", "not there"),
        (b"\x80\x02NNR.", "without arguments"),
        (b"\x80\x02N)R.", "no function"),
        (b"\x80\x02h\x05.", "memo 5"),
        (b"\x80\x02}(K\x01u.", "key without a value"),
        (b"\x80\x02}K\x01K\x02s.", "no text"),
        (b"\x80\x02(0.", "not there"),
        (b"\x80\x02t.", "mark"),
        (b"\x80\x02K\x01Q.", "persistent id"),
        (b"\x80\x02\x8a\x09123456789.", "more than 64 bits"),
        (b"\x80\x02X\x01\0\0\0\xff.", "no UTF-8"),
        (b"\x80\x02ccollections\nOrderedDict\nN\x85R.", "do not fit"),
    ] {
        let error = pickle_error(pickle);
        assert!(
            error.contains(reason),
            "{:?}: {error}",
            String::from_utf8_lossy(pickle)
        );
    }
}

#[test]
fn pickle_bombs_take_no_memory_and_no_stack() {
    // A million nested tuples, dictionaries in themselves, doubled tuples of doubled tuples, and marks without end.
    let nested = [&b"\x80\x02)"[..], &[0x85; 1_000_000], b"."].concat();
    assert!(pickle_error(nested).contains("no dictionary"));
    let itself = b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.";
    assert!(pickle_error(itself).contains("no tensors"));
    let doubled = [&b"\x80\x02)"[..], &b"2\x86".repeat(100_000), b"."].concat();
    assert!(pickle_error(doubled).contains("no dictionary"));
    for (piled, reason) in [
        (b'N', "piles up"),
        (b'(', "piles up"),
        (b'2', "piles up"),
        (b'}', "piles up"),
    ] {
        let pile = [&b"\x80\x02N"[..], &vec![piled; 3_000_000], b"."].concat();
        assert!(pickle_error(pile).contains(reason));
    }
    let memos: Vec<u8> = (0..2_000_000u32)
        .flat_map(|at| [&[b'r'][..], &at.to_le_bytes()].concat())
        .collect();
    let memos = [&b"\x80\x02}"[..], &memos, b"."].concat();
    assert!(pickle_error(memos).contains("no tensors"));
    let long = vec![b'N'; 17 << 20];
    assert!(pickle_error(long).contains("shorter than"));
}

#[test]
fn tensors_that_do_not_lie_in_their_storage() {
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut entry = whole();
        change(&mut entry);
        pickle_error(pickle(&[entry]))
    };
    let cases: [Damage<'_, Entry>; 14] = [
        (&|e| e.shape = vec![3, 3], "outside"),
        (&|e| e.offset = 1, "outside"),
        (&|e| e.offset = i64::MAX, "outside"),
        (&|e| e.offset = -1, "size of -1"),
        (&|e| e.numel = 7, "outside"),
        (&|e| e.numel = i64::MAX, "outside"),
        (&|e| e.strides = vec![4, 1], "outside"),
        (&|e| e.strides = vec![i64::MAX, 1], "outside"),
        (&|e| e.strides = vec![1], "outside"),
        (&|e| e.shape = vec![i64::MAX, i64::MAX], "outside"),
        // One float that claims to be four terabytes.
        (
            &|e| (e.shape, e.strides) = (vec![1 << 20, 1 << 20], vec![0, 0]),
            "more than once",
        ),
        (
            &|e| (e.shape, e.strides) = (vec![1; 17], vec![1; 17]),
            "up to 16 sizes",
        ),
        (&|e| e.storage = "DoubleStorage", "outside"),
        (
            &|e| e.key = "../../etc/passwd".into(),
            "lacks data/../../etc/passwd",
        ),
    ];
    for (at, (change, reason)) in cases.into_iter().enumerate() {
        let error = changed(change);
        assert!(error.contains(reason), "{at}: {error}");
    }
    assert!(changed(&|e| e.storage = "QUInt8Storage").contains("torch.QUInt8Storage"));
    assert!(pickle_error(pickle(&[whole(), whole()])).contains("has w twice"));
}

#[test]
fn a_checkpoint_that_is_more_than_a_state_dict_says_what_to_save() {
    let mut nested = b"\x80\x02}(".to_vec();
    text(&mut nested, "model");
    nested.extend(dictionary(&[whole()]));
    nested.extend(b"u.");
    let error = pickle_error(nested);
    assert!(
        error.contains("top level") && error.contains("state_dict()"),
        "{error}"
    );
}

#[test]
fn archives_that_lie() {
    let parts = || {
        vec![
            member("m/data.pkl", pickle(&[whole()])),
            member("m/data/0", f32s(6)),
        ]
    };
    let error = |change: &dyn Fn(&mut Vec<Member>)| {
        let mut parts = parts();
        change(&mut parts);
        open(archive(&parts)).err().unwrap_or_default()
    };
    assert_eq!(error(&|_| ()), "", "unchanged, it is read");
    let cases: [Damage<'_, Vec<Member>>; 9] = [
        (&|parts| parts[1].method = 8, "compressed"),
        (&|parts| parts[1].flags = 1, "encrypted"),
        (&|parts| parts[1].size = Some(1 << 30), "does not lie where"),
        (&|parts| parts[1].size = Some(u32::MAX), "cut or damaged"),
        (&|parts| parts[1].at = Some(1 << 30), "does not lie where"),
        // The pickle's header under another name, and the same bytes under the same name.
        (&|parts| parts[1].at = Some(0), "does not lie where"),
        (
            &|parts| {
                parts.push(Member {
                    at: Some(0),
                    ..parts[0].clone()
                })
            },
            "twice",
        ),
        (&|parts| parts.push(parts[1].clone()), "twice"),
        (
            &|parts| parts[0].size = Some(parts[0].bytes.len() as u32 + 10),
            "overlap",
        ),
    ];
    for (at, (change, reason)) in cases.into_iter().enumerate() {
        let error = error(change);
        assert!(error.contains(reason), "{at}: {error}");
    }
}

#[test]
fn a_file_cut_or_overwritten_anywhere_never_panics() {
    let whole = std::fs::read(golden_dir("pytorch/single/pytorch_model.bin")).unwrap();
    for len in (0..whole.len())
        .step_by(997)
        .chain(whole.len() - 100..whole.len())
    {
        let error = open(whole[..len].to_vec()).err();
        assert!(error.unwrap().contains("pytorch_model.bin"), "{len}");
    }
    // The end of the file is its directory, of which every byte matters.
    for at in (whole.len() - 3000..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = open(bytes).map(|mut source| source.read("model.norm.weight").map(|_| ()));
    }
}
