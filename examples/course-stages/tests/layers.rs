//! The three layers that see to it that every job finds its machine begun.

use course_stages::{
    scenarios::{title_only, with_files, without_files},
    service::Parts,
    stages::{COMPLETE, Layer, Stage},
};
use posthaste_testkit::eventually_async;

use crate::support::{Kind, LIMIT, Place, on_kinds, payload, request};

const LISTENER: Parts = Parts { relay: false, listener: true, worker: false };
const WITHOUT_LISTENER: Parts = Parts { relay: true, listener: false, worker: true };

on_kinds! {
    embedded Embedded {
        r49_defence_layer_1_command_begins_the_machine,
    }
    stream Stream {
        r49_defence_layer_1_command_begins_the_machine,
        r49_defence_layer_2_listener_begins_a_course_in_pending,
        r49_defence_layer_3_worker_begins_a_missing_machine,
        r32_each_kind_of_job_begins_its_stage,
        r32_listener_leaves_alone_what_has_begun,
        r33_stage_2_begins_from_pending,
        r33_stage_4_begins_unless_in_one_of_its_states,
        r33_stage_5_begins_unless_in_one_of_its_states,
        r53_what_the_layers_do_is_counted,
    }
    bullmq Bullmq {
        r49_defence_layer_2_listener_begins_a_course_in_pending,
        r49_defence_layer_3_worker_begins_a_missing_machine,
        r32_each_kind_of_job_begins_its_stage,
    }
}

async fn r49_defence_layer_1_command_begins_the_machine(kind: Kind) {
    let place = Place::new(kind).await;
    for (course, state, jobs) in [
        (with_files("c-1"), "stage_2_init", 4),
        (without_files("c-2"), "stage_4_init", 1),
        (title_only("c-3"), "stage_5_init", 1),
    ] {
        place.courses.upload(&course).await.unwrap();
        let initiated = place.courses.initiate(&request(&course)).await.unwrap();
        // At once, while nothing else runs.
        assert_eq!(place.courses.state(&course.id).await.unwrap(), state);
        assert_eq!((initiated.fsm_state.as_str(), initiated.outbox_entries.len()), (state, jobs));
        assert_eq!(place.courses.published(&course.id).await.unwrap(), (jobs as u64, 0));
        let repeat = place.courses.initiate(&request(&course)).await.unwrap();
        assert_eq!(repeat, initiated);
        assert_eq!(place.courses.published(&course.id).await.unwrap(), (jobs as u64, 0));
    }
    let service = place.start_all();
    for course in ["c-1", "c-2", "c-3"] {
        place.until(course, COMPLETE).await;
    }
    let report = service.stop().await.unwrap();
    assert_eq!((report.listener.mended, report.worker.mended), (0, 0));
}

async fn r49_defence_layer_2_listener_begins_a_course_in_pending(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start(LISTENER);
    place.courses.upload(&with_files("c-1")).await.unwrap();
    place.add_by_hand(Stage::Documents, &payload(Stage::Documents, "c-1")).await;
    place.until("c-1", "stage_2_init").await;
    assert_eq!(place.trail("c-1").await, ["pending by api", "stage_2_init by queue-listener"]);
    let counts = service.stop().await.unwrap().listener;
    assert_eq!((counts.taken, counts.mended, counts.unmended), (1, 1, 0));
}

/// The course has no machine at all: its row came from elsewhere.
async fn r49_defence_layer_3_worker_begins_a_missing_machine(kind: Kind) {
    let place = Place::new(kind).await;
    let insert = "insert into course (id, title, style, documents_left) \
                  values ('c-1', 'Sales', 'academic', 0)";
    place.client().await.execute(insert, &[]).await.unwrap();
    let service = place.start(WITHOUT_LISTENER);
    place.add_by_hand(Stage::Generation, &payload(Stage::Generation, "c-1")).await;
    place.until("c-1", COMPLETE).await;
    let expected = [
        "stage_5_init by worker-fallback",
        "stage_5_generating by worker",
        "stage_5_complete by worker",
    ];
    assert_eq!(place.trail("c-1").await, expected);
    let report = service.stop().await.unwrap();
    assert_eq!((report.worker.mended, report.worker.unmended), (1, 0));
    assert_eq!(report.listener.taken, 0);
}

async fn r32_each_kind_of_job_begins_its_stage(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start(LISTENER);
    for stage in Stage::ALL {
        let course = stage.topic();
        place.courses.upload(&with_files(course)).await.unwrap();
        place.add_by_hand(stage, &payload(stage, course)).await;
        place.until(course, stage.init()).await;
    }
    assert_eq!(service.stop().await.unwrap().listener.mended, 3);
}

/// Also where a job of another stage comes than the one that it is in.
async fn r32_listener_leaves_alone_what_has_begun(kind: Kind) {
    let place = Place::new(kind).await;
    for (course, begun) in [("c-2", Stage::Documents), ("c-4", Stage::Structure)] {
        place.courses.upload(&with_files(course)).await.unwrap();
        place.courses.ensure_begun(Layer::Listener, begun, course).await.unwrap();
        for stage in Stage::ALL {
            place.add_by_hand(stage, &payload(stage, course)).await;
        }
    }
    place.courses.upload(&title_only("last")).await.unwrap();
    let service = place.start(LISTENER);
    place.add_by_hand(Stage::Generation, &payload(Stage::Generation, "last")).await;
    place.until("last", "stage_5_init").await;
    let counts = service.stop().await.unwrap().listener;
    assert_eq!((counts.taken, counts.mended, counts.unmended), (7, 1, 0));
    assert_eq!(place.courses.state("c-2").await.unwrap(), "stage_2_init");
    assert_eq!(place.courses.state("c-4").await.unwrap(), "stage_4_init");
}

/// Whether the third layer began `stage` for courses that stand in each of `states`, or was refused by the machine.
async fn third_layer(stage: Stage, cases: &[(&str, Result<bool, &str>)]) {
    let place = Place::new(Kind::Stream).await;
    let client = place.client().await;
    for (state, expected) in cases {
        place.courses.upload(&with_files(state)).await.unwrap();
        let put = "update posthaste.entity set state = $1 where entity_id = $1";
        client.execute(put, &[state]).await.unwrap();
        let found = place.courses.ensure_begun(Layer::Worker, stage, state).await;
        let found = found.map_err(|error| posthaste_core::describe(&error));
        match expected {
            Ok(was_missing) => {
                assert_eq!(found, Ok(*was_missing), "{state}");
                let then = if *was_missing { stage.init() } else { state };
                assert_eq!(place.courses.state(state).await.unwrap(), then);
            }
            Err(said) => {
                let error = found.unwrap_err();
                assert!(error.contains(said), "{state}: {error}");
                assert_eq!(place.courses.state(state).await.unwrap(), *state);
            }
        }
    }
}

async fn r33_stage_2_begins_from_pending(_: Kind) {
    let others = ["stage_2_init", "stage_2_processing", "stage_4_init", "stage_5_complete"];
    let mut cases = vec![("pending", Ok(true))];
    cases.extend(others.map(|state| (state, Ok(false))));
    third_layer(Stage::Documents, &cases).await;
}

async fn r33_stage_4_begins_unless_in_one_of_its_states(_: Kind) {
    let cases = [
        ("pending", Ok(true)),
        ("stage_2_complete", Ok(true)),
        ("stage_4_init", Ok(false)),
        ("stage_4_analyzing", Ok(false)),
        ("stage_4_complete", Ok(false)),
        ("stage_2_processing", Err("from stage_2_processing to stage_4_init")),
        ("stage_5_init", Err("from stage_5_init to stage_4_init")),
        ("failed", Err("from failed to stage_4_init")),
    ];
    third_layer(Stage::Structure, &cases).await;
}

async fn r33_stage_5_begins_unless_in_one_of_its_states(_: Kind) {
    let cases = [
        ("pending", Ok(true)),
        ("stage_4_complete", Ok(true)),
        ("stage_5_init", Ok(false)),
        ("stage_5_generating", Ok(false)),
        ("stage_5_complete", Ok(false)),
        ("stage_2_init", Err("from stage_2_init to stage_5_init")),
        ("stage_4_analyzing", Err("from stage_4_analyzing to stage_5_init")),
    ];
    third_layer(Stage::Generation, &cases).await;
}

/// What a layer has begun, and what it could not: a warning, after which the next job is served.
async fn r53_what_the_layers_do_is_counted(kind: Kind) {
    let place = Place::new(kind).await;
    place.courses.upload(&title_only("c-1")).await.unwrap();
    place.courses.upload(&title_only("c-2")).await.unwrap();
    for course in ["nobody's", "c-1", "c-2"] {
        place.add_by_hand(Stage::Generation, &payload(Stage::Generation, course)).await;
    }
    let service = place.start(LISTENER);
    place.until("c-2", "stage_5_init").await;
    let listener = service.stop().await.unwrap().listener;
    assert_eq!((listener.taken, listener.mended, listener.unmended), (3, 2, 1));

    // The worker takes over a course that the listener has not seen.
    place.courses.upload(&title_only("c-3")).await.unwrap();
    place.add_by_hand(Stage::Generation, &payload(Stage::Generation, "c-3")).await;
    let service = place.start(WITHOUT_LISTENER);
    for course in ["c-1", "c-2", "c-3"] {
        place.until(course, COMPLETE).await;
    }
    // The job of a course that there is not is tried as often as others.
    let dead = format!("{}:dead", stream(&place));
    let is_buried = async || {
        let length = redis::cmd("XLEN").arg(&dead).to_owned();
        let mut client = crate::support::connect(&posthaste_testkit::Redis::shared().url()).await;
        length.query_async::<i64>(&mut client).await.unwrap() == 1
    };
    eventually_async("a dead letter", LIMIT, is_buried).await;
    let worker = service.stop().await.unwrap().worker;
    assert_eq!((worker.mended, worker.completed, worker.buried), (1, 3, 1));
    assert_eq!(worker.unmended, worker.failed + 1, "{worker:?}");
}

fn stream(place: &Place) -> String {
    match &place.queue {
        course_stages::service::Queue::Stream { prefix, .. } => format!("{prefix}:jobs"),
        other => panic!("no stream: {other:?}"),
    }
}
