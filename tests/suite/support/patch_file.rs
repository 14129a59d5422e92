//! BDSYNC 0.3 files made and read by hand: a second opinion, apart from the code under test.

/// A patch with these records, as the classic would write it, or could be tricked to read it.
pub fn build(size: u64, name: &str, records: &[(u64, &[u8])], checksum: &[u8]) -> Vec<u8> {
    let mut bytes = b"BDSYNC 0.3\n".to_vec();
    bytes.extend(size.to_le_bytes());
    bytes.extend(u16::try_from(name.len()).expect("short name").to_le_bytes());
    bytes.extend(name.as_bytes());
    for (offset, data) in records {
        bytes.extend(offset.to_le_bytes());
        bytes.extend(u16::try_from(data.len()).expect("short record").to_le_bytes());
        bytes.extend(*data);
    }
    bytes.extend([0; 10]);
    bytes.extend(checksum);
    bytes
}

/// The checksum field for digest `name` with this value.
pub fn checksum_field(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(name.len()).expect("short")];
    bytes.extend(name.as_bytes());
    bytes.push(u8::try_from(value.len()).expect("short"));
    bytes.extend(value);
    bytes
}

/// A patch taken apart.
pub struct Parsed {
    pub size: u64,
    pub name: Vec<u8>,
    /// Offset and data of every record.
    pub records: Vec<(u64, Vec<u8>)>,
    /// Name and value of the digest.
    pub checksum: Option<(Vec<u8>, Vec<u8>)>,
}

/// Takes a well-formed patch apart; panics on any other.
pub fn parse(patch: &[u8]) -> Parsed {
    let mut rest = patch.strip_prefix(b"BDSYNC 0.3\n").expect("no magic");
    let size = u64::from_le_bytes(*take(&mut rest));
    let name_len = u16::from_le_bytes(*take(&mut rest));
    let name = take_bytes(&mut rest, name_len.into());
    let mut records = vec![];
    loop {
        let offset = u64::from_le_bytes(*take(&mut rest));
        let len = u16::from_le_bytes(*take(&mut rest));
        if len == 0 {
            assert_eq!(offset, 0, "the end record");
            break;
        }
        records.push((offset, take_bytes(&mut rest, len.into())));
    }
    let [name_len] = *take(&mut rest);
    let checksum = (name_len > 0).then(|| {
        let name = take_bytes(&mut rest, name_len.into());
        let [len] = *take(&mut rest);
        (name, take_bytes(&mut rest, len.into()))
    });
    assert!(rest.len() < 4096, "{} bytes behind the patch", rest.len());
    Parsed { size, name, records, checksum }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    let (head, tail) = rest.split_first_chunk().expect("cut patch");
    *rest = tail;
    head
}

fn take_bytes(rest: &mut &[u8], len: usize) -> Vec<u8> {
    let (head, tail) = rest.split_at(len);
    *rest = tail;
    head.to_vec()
}
