#![allow(missing_docs, clippy::unwrap_used)]
#[tokio::test]
async fn measure() {
    use posthaste_store::{Store as _, postgres::{PostgresOptions, PostgresStore}};
    let pg = posthaste_testkit::Postgres::start_durable();
    let db = pg.database().await;
    PostgresStore::connect(db.url(), &PostgresOptions::default()).unwrap().migrate().await.unwrap();
    let (mut c, conn) = tokio_postgres::connect(db.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(conn);
    let outbox = posthaste::Outbox::default();
    let ms: Vec<_> = (0..100_000).map(|n| posthaste::Message::new("orders.created").key(format!("k{}", n % 1000)).header("tenant","acme").bytes("a/b", vec![b'x'; 200])).collect();
    for _ in 0..3 {
        let t = std::time::Instant::now();
        let tx = c.transaction().await.unwrap();
        outbox.enqueue_many(&tx, &ms).await.unwrap();
        tx.commit().await.unwrap();
        eprintln!("bulk {:.0}/s load {}", 100_000.0 / t.elapsed().as_secs_f64(), std::fs::read_to_string("/proc/loadavg").unwrap());
    }
    let tx = c.transaction().await.unwrap();
    let t = std::time::Instant::now();
    for m in &ms[..5_000] { outbox.enqueue(&tx, m).await.unwrap(); }
    eprintln!("single {:.0}/s", 5_000.0 / t.elapsed().as_secs_f64());
    tx.commit().await.unwrap();
}
