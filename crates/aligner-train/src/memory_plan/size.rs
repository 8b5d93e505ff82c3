//! Amounts of memory: as people write them, and as the machine has them.

/// An amount of memory as people write it: `24GB`, `24GiB`, `800MB`, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(pub u64);

impl std::str::FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not an amount of memory; write it as 24GB, 24GiB, 800MB or in bytes");
        let text_end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(text_end);
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let unit = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kb" => 1e3,
            "m" | "mb" => 1e6,
            "g" | "gb" => 1e9,
            "t" | "tb" => 1e12,
            "kib" => 1024.0,
            "mib" => 1024.0 * 1024.0,
            "gib" => 1024.0 * 1024.0 * 1024.0,
            "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
        let bytes = number * unit;
        if bytes.is_finite() && bytes >= 1.0 {
            Ok(Self(bytes as u64))
        } else {
            Err(wrong())
        }
    }
}

/// Memory of this machine that a process can still have: what the kernel calls available, and no more than is left of the
/// limit of the container it runs in. `None` where neither can be read: on another system than Linux.
pub fn available_memory_bytes() -> Option<u64> {
    let machine = available(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit = left_of_limit(group("memory.max"), group("memory.current"), group("memory.stat"));
    Some(limit.map_or(machine, |left| left.min(machine)))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// `None` where there is no limit: the file is missing, or says `max`. Pages of files count as used, and are given up when
/// somebody needs their place; `statistics` says how many there are.
fn left_of_limit(limit: Option<String>, used: Option<String>, statistics: Option<String>) -> Option<u64> {
    let bytes = |text: Option<String>| text?.trim().parse::<u64>().ok();
    let statistics = statistics.unwrap_or_default();
    let pages = |name: &str| {
        let mut lines = statistics.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(key, _)| *key == name)?;
        found.1.trim().parse::<u64>().ok()
    };
    let given_up = ["active_file", "inactive_file"].map(|name| pages(name).unwrap_or(0));
    let used = bytes(used).unwrap_or(0);
    let used = used.saturating_sub(given_up[0].saturating_add(given_up[1]));
    Some(bytes(limit)?.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_are_read_as_they_are_written() {
        let bytes = |text: &str| text.parse::<MemorySize>().map(|size| size.0);
        assert_eq!(bytes("24GB"), Ok(24_000_000_000));
        assert_eq!(bytes("24GiB"), Ok(24 << 30));
        assert_eq!(bytes("800 mb"), Ok(800_000_000));
        assert_eq!(bytes("1.5G"), Ok(1_500_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in ["", "GB", "24XB", "-1GB", "0", "nan", "infGB", "1e400"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_available_is_read_from_the_kernels_table_and_a_containers_limit() {
        let table = "MemTotal:       24573472 kB\nMemFree: 1 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(available(table), Some(22_000_000 * 1024));
        for wrong in ["", "MemAvailable: many kB", "MemFree: 1 kB"] {
            assert_eq!(available(wrong), None, "{wrong}");
        }
        let text = |text: &str| Some(text.to_string());
        assert_eq!(left_of_limit(text("1000\n"), text("400\n"), None), Some(600));
        assert_eq!(left_of_limit(text("1000"), text("4000"), None), Some(0));
        assert_eq!(left_of_limit(text("max\n"), text("400"), None), None);
        assert_eq!(left_of_limit(None, None, None), None);
        let pages = "anon 100\nfile 290\ninactive_file 200\nactive_file 50\nunevictable 3\n";
        assert_eq!(left_of_limit(text("1000"), text("400"), text(pages)), Some(850));
        assert_eq!(left_of_limit(text("1000"), text("100"), text(pages)), Some(1000));
    }
}
