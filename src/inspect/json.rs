//! The report for a program.

use serde::Serialize;

use super::summary::Report;
use crate::report::escape_json;
use crate::units::hex;

/// The form of the object; raised when a field changes its meaning.
const FORMAT: u32 = 1;
/// The most parts of the map.
const MAP_PARTS_MAX: u64 = 1024;

#[derive(Serialize)]
struct Form<'a> {
    format: u32,
    patch: &'a str,
    patch_bytes: u64,
    read_to_end: bool,
    compression: Option<&'static str>,
    /// Bytes that are no UTF-8 become U+FFFD; `target_hex` has all of them.
    target: String,
    target_hex: String,
    size_bytes: u64,
    records: u64,
    runs: u64,
    data_bytes: u64,
    changed_share_max: f64,
    zero_bytes: u64,
    zero_record_bytes: u64,
    ascending: bool,
    checksum: Option<ChecksumForm>,
    seal: Option<SealForm>,
    faults: Vec<FaultForm<'a>>,
    map: MapForm,
    partitions: Vec<PartitionForm<'a>>,
}

#[derive(Serialize)]
struct ChecksumForm {
    name: String,
    digest: String,
}

#[derive(Serialize)]
struct SealForm {
    sets_size: bool,
    block_bytes: Option<u64>,
    blocks: Option<u64>,
    hash: Option<&'static str>,
    source: String,
    target: String,
}

#[derive(Serialize)]
struct FaultForm<'a> {
    position: u64,
    text: &'a str,
}

/// Changed bytes of equal parts of the device.
#[derive(Serialize)]
struct MapForm {
    part_bytes: u64,
    changed_bytes: Vec<u64>,
}

#[derive(Serialize)]
struct PartitionForm<'a> {
    number: u32,
    start: u64,
    bytes: u64,
    kind: &'a str,
    name: &'a str,
    changed_bytes_max: u64,
}

/// The report of the patch that messages call `path`, as one JSON object and a line end.
#[must_use]
pub fn json(report: &Report, path: &str) -> String {
    let size_bytes = report.header.size_bytes;
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let part_bytes =
        size_bytes.div_ceil(MAP_PARTS_MAX).max(1).next_multiple_of(report.map.cell_bytes());
    let form = Form {
        format: FORMAT,
        patch: path,
        patch_bytes: report.patch_bytes,
        read_to_end: report.read_to_end,
        compression: report.compression,
        target: lossy(&report.header.name),
        target_hex: hex(&report.header.name),
        size_bytes,
        records: report.records,
        runs: report.runs,
        data_bytes: report.data_bytes,
        changed_share_max: report.changed_bytes_max() as f64 / size_bytes.max(1) as f64,
        zero_bytes: report.zero_bytes,
        zero_record_bytes: report.zero_record_bytes,
        ascending: report.is_ascending(),
        checksum: report
            .checksum
            .as_ref()
            .map(|sum| ChecksumForm { name: lossy(&sum.name), digest: hex(&sum.digest) }),
        seal: report.seal.as_ref().map(|seal| SealForm {
            sets_size: seal.resize,
            block_bytes: seal.base.as_ref().map(|base| base.block_bytes),
            blocks: seal.base.as_ref().map(|base| base.fingerprint.blocks),
            hash: seal.base.as_ref().map(|base| base.algorithm.name()),
            source: lossy(&seal.source),
            target: lossy(&seal.target),
        }),
        faults: report
            .faults
            .iter()
            .map(|fault| FaultForm { position: fault.position, text: &fault.text })
            .collect(),
        map: MapForm { part_bytes, changed_bytes: report.map.changed_in_parts(part_bytes) },
        partitions: report.partitions.iter().map(partition).collect(),
    };
    let text = serde_json::to_string_pretty(&form).unwrap_or_default();
    let mut text = escape_json(&text);
    text.push('\n');
    text
}

fn partition((partition, changed): &(super::Partition, u64)) -> PartitionForm<'_> {
    PartitionForm {
        number: partition.number,
        start: partition.range.start,
        bytes: partition.range.len(),
        kind: &partition.kind,
        name: &partition.name,
        changed_bytes_max: *changed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::inspect;
    use super::*;
    use crate::patch::{Header, PatchWriter};

    #[test]
    fn every_byte_of_a_name_survives_and_the_map_adds_up() {
        let header = Header { size_bytes: 1 << 20, name: b"a\xff\"\n".to_vec() };
        let mut writer = PatchWriter::new(Vec::new(), &header).unwrap();
        writer.write_block(4096, &[1; 8192]).unwrap();
        let patch = writer.finish(None).unwrap();
        let report = inspect(&patch[..], "p", Some("zstd"), vec![]).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json(&report, "p")).unwrap();
        assert_eq!(value["target_hex"], "61ff220a");
        assert_eq!((&value["records"], &value["compression"]), (&1.into(), &"zstd".into()));
        let map = value["map"]["changed_bytes"].as_array().unwrap();
        assert_eq!(map.iter().filter_map(serde_json::Value::as_u64).sum::<u64>(), 8192);
        assert_eq!(map.len(), 1024);
        assert_eq!(value["changed_share_max"], 8192.0 / f64::from(1 << 20));
    }

    #[test]
    fn parts_of_the_map_are_whole_cells_and_cover_the_device() {
        for size_bytes in [0, 1, 1 << 20, (1 << 20) + 1, (1 << 40) + 1, u64::MAX] {
            let header = Header { size_bytes, name: vec![] };
            let patch = PatchWriter::new(Vec::new(), &header).unwrap().finish(None).unwrap();
            let report = inspect(&patch[..], "p", None, vec![]).unwrap();
            let text = json(&report, "p");
            assert!(text.ends_with("}\n"), "{text}");
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let part_bytes = value["map"]["part_bytes"].as_u64().unwrap();
            let parts = value["map"]["changed_bytes"].as_array().unwrap().len() as u64;
            assert_eq!(part_bytes % report.map.cell_bytes(), 0, "{size_bytes}");
            assert_eq!(parts, size_bytes.div_ceil(part_bytes), "{size_bytes}");
            assert!(parts <= MAP_PARTS_MAX, "{size_bytes}");
            assert_eq!(value["changed_share_max"], 0.0, "{size_bytes}");
        }
    }
}
