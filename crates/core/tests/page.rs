//! A page gives back what was pushed, byte for byte (BYTE-EXACT).

use posthaste_core::{Headers, MessageId, MessageRef, Page, Timestamp};
use proptest::{collection::vec, option, prelude::*};

#[derive(Clone, Debug)]
struct Owned {
    id: u128,
    at: i64,
    topic: String,
    key: Option<String>,
    content_type: String,
    correlation_id: Option<String>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

fn owned() -> impl Strategy<Value = Owned> {
    let texts = (".{0,8}", option::of(".{0,8}"), ".{0,8}", option::of(".{0,8}"));
    let headers = vec((".{0,5}", ".{0,5}"), 0..4);
    (any::<u128>(), any::<i64>(), texts, headers, vec(any::<u8>(), 0..40)).prop_map(
        |(id, at, (topic, key, content_type, correlation_id), headers, payload)| Owned {
            id,
            at,
            topic,
            key,
            content_type,
            correlation_id,
            headers,
            payload,
        },
    )
}

fn packed(headers: &[(String, String)]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, value) in headers {
        Headers::pack(&mut packed, name);
        Headers::pack(&mut packed, value);
    }
    packed
}

fn message<'a>(owned: &'a Owned, position: i64, packed: &'a [u8]) -> MessageRef<'a> {
    MessageRef {
        id: MessageId::from_u128(owned.id),
        position,
        enqueued_at: Timestamp(owned.at),
        topic: &owned.topic,
        key: owned.key.as_deref(),
        content_type: &owned.content_type,
        correlation_id: owned.correlation_id.as_deref(),
        headers: Headers::packed(packed),
        payload: &owned.payload,
    }
}

proptest! {
    #[test]
    fn page_gives_back_what_was_pushed(all in vec(owned(), 0..12), through: i64) {
        let packs: Vec<Vec<u8>> = all.iter().map(|owned| packed(&owned.headers)).collect();
        let mut page = Page::new(through);
        let mut bytes = 0;
        let mut pushed = Vec::new();
        for (nth, (owned, packed)) in all.iter().zip(&packs).enumerate() {
            let message = message(owned, nth as i64, packed);
            page.push(&message);
            bytes += owned.payload.len() + packed.len() + owned.topic.len();
            bytes += owned.key.as_ref().map_or(0, String::len) + owned.content_type.len();
            bytes += owned.correlation_id.as_ref().map_or(0, String::len);
            pushed.push(message);
        }
        prop_assert_eq!((page.through(), page.bytes()), (through, bytes));
        prop_assert_eq!((page.len(), page.is_empty()), (all.len(), all.is_empty()));
        prop_assert_eq!(page.iter().collect::<Vec<_>>(), pushed);
        for (owned, read) in all.iter().zip(page.iter()) {
            let headers: Vec<_> =
                read.headers.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            prop_assert_eq!(&headers, &owned.headers);
        }
    }

    #[test]
    fn damaged_headers_never_panic(packed in vec(any::<u8>(), 0..40)) {
        let headers = Headers::packed(&packed);
        prop_assert!(headers.iter().count() <= packed.len());
    }
}
