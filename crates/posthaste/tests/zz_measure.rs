#![allow(missing_docs, clippy::unwrap_used)]
#[tokio::test]
async fn measure() {
    use posthaste_store::{
        Store as _,
        postgres::{PostgresOptions, PostgresStore},
    };
    let pg = posthaste_testkit::Postgres::start_durable();
    let db = pg.database().await;
    PostgresStore::connect(db.url(), &PostgresOptions::default()).unwrap().migrate().await.unwrap();
    let (mut c, conn) = tokio_postgres::connect(db.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(conn);
    let outbox = posthaste::Outbox::default();
    let ms: Vec<_> = (0..200_000)
        .map(|n| {
            posthaste::Message::new("orders.created")
                .key(format!("k{}", n % 1000))
                .header("tenant", "acme")
                .bytes("a/b", vec![b'x'; 200])
        })
        .collect();
    for _ in 0..3 {
        let t = std::time::Instant::now();
        let tx = c.transaction().await.unwrap();
        outbox.enqueue_many(&tx, &ms).await.unwrap();
        tx.commit().await.unwrap();
        eprintln!("bulk {:.0}/s", 200_000.0 / t.elapsed().as_secs_f64());
    }
    let tx = c.transaction().await.unwrap();
    let t = std::time::Instant::now();
    for m in &ms[..10_000] {
        outbox.enqueue(&tx, m).await.unwrap();
    }
    eprintln!("single {:.0}/s", 10_000.0 / t.elapsed().as_secs_f64());
    tx.commit().await.unwrap();
    let tx = c.transaction().await.unwrap();
    let t = std::time::Instant::now();
    for _ in 0..10_000 {
        tx.query_typed("select posthaste.enqueue_bytes('orders.created', 'xxxxxxxxxxxxxxxxxxxxx', headers => '{\"tenant\":\"acme\"}')", &[]).await.unwrap();
    }
    eprintln!("sql fn {:.0}/s", 10_000.0 / t.elapsed().as_secs_f64());
}
