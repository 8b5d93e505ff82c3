//! Weight files made by hand, whole or damaged on purpose.
#![allow(dead_code)]

/// A tensor of a pickle: where it says that it lies.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    /// `FloatStorage`, …
    pub storage: &'static str,
    /// Entry of the archive.
    pub key: String,
    pub numel: i64,
    pub offset: i64,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

impl Entry {
    /// A tensor that fills a storage of its own.
    pub fn whole(name: &str, storage: &'static str, key: &str, shape: &[usize]) -> Self {
        let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self {
            name: name.into(),
            storage,
            key: key.into(),
            numel: shape.iter().product(),
            offset: 0,
            shape,
            strides,
        }
    }
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn long(out: &mut Vec<u8>, number: i64) {
    out.extend([0x8a, 8]);
    out.extend(number.to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: &[i64]) {
    out.push(b'(');
    for &number in numbers {
        long(out, number);
    }
    out.push(b't');
}

/// The opcodes of a dictionary of tensors, without the first (protocol) and the last (stop).
pub fn dictionary(entries: &[Entry]) -> Vec<u8> {
    let mut out = b"}(".to_vec();
    for entry in entries {
        text(&mut out, &entry.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(format!("ctorch\n{}\n", entry.storage).as_bytes());
        text(&mut out, &entry.key);
        text(&mut out, "cpu");
        long(&mut out, entry.numel);
        out.extend(b"tQ");
        long(&mut out, entry.offset);
        tuple(&mut out, &entry.shape);
        tuple(&mut out, &entry.strides);
        out.extend(b"\x89NtR");
    }
    out.push(b'u');
    out
}

pub fn pickle(entries: &[Entry]) -> Vec<u8> {
    [b"\x80\x02".to_vec(), dictionary(entries), b".".to_vec()].concat()
}

/// An entry of an archive, with what a directory may lie about.
#[derive(Clone, Default)]
pub struct Member {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Instead of the true place of the local header.
    pub at: Option<u32>,
    /// Instead of the true size.
    pub size: Option<u32>,
    pub method: u16,
    pub flags: u16,
}

pub fn member(name: &str, bytes: impl Into<Vec<u8>>) -> Member {
    Member {
        name: name.into(),
        bytes: bytes.into(),
        ..Member::default()
    }
}

/// A zip archive without a zip64 record.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let at = member.at.unwrap_or(out.len() as u32);
        let size = member.size.unwrap_or(member.bytes.len() as u32);
        let mut common = Vec::new();
        common.extend(member.flags.to_le_bytes());
        common.extend(member.method.to_le_bytes());
        common.extend([0; 8]);
        common.extend(size.to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend((member.name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        out.extend(b"PK\x03\x04\x14\0");
        out.extend(&common);
        out.extend(member.name.as_bytes());
        out.extend(&member.bytes);
        directory.extend(b"PK\x01\x02\x14\0\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(member.name.as_bytes());
    }
    let (start, size) = (out.len() as u32, directory.len() as u32);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend([members.len() as u16; 2].map(u16::to_le_bytes).concat());
    out.extend(size.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0; 2]);
    out
}

/// A file of `torch.save` whose storages are `members` and whose pickle says `pickle`.
pub fn torch_file(pickle: Vec<u8>, storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut members = vec![
        member("model/data.pkl", pickle),
        member("model/byteorder", "little"),
    ];
    members.extend(
        storages
            .iter()
            .map(|(key, bytes)| member(&format!("model/data/{key}"), bytes.clone())),
    );
    archive(&members)
}

/// A safetensors file with any header.
pub fn safetensors_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub fn f32s(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|index| (index as f32).to_le_bytes())
        .collect()
}
