//! A guest that does not stop talking.

use super::*;
use crate::process::Stage;
use crate::testing::{self, run};

const EXIT: Exit = Exit {
    code: 7,
    signal: None,
    oom_killed: false,
    at_ns: 0,
};

async fn pod() -> (Arc<Pod>, mpsc::Receiver<News>) {
    let (pod, heard) = testing::pod();
    let init = Process::new(Paths::default(), None, None);
    pod.adopt(Task::new("one", "/bundle".into(), Kind::Sandbox, init))
        .await;
    (pod, heard)
}

fn exited() -> News {
    News::Guest(PodEvent::Exited {
        container: "one".into(),
        exec: String::new(),
        exit: EXIT,
    })
}

#[test]
fn case_08_an_end_that_is_told_again_and_again_is_one() {
    run(async {
        let (pod, heard) = pod().await;
        let process = pod.task("one").unwrap().process("").unwrap();
        // Its start takes a while.
        let starting = process.order.lock().await;
        let listening = tokio::spawn(Arc::clone(&pod).listen(heard));
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.num_alive_tasks();
        for _ in 0..10_000 {
            pod.news.send(exited()).await.unwrap();
        }
        while pod.news.capacity() < NEWS {
            tokio::task::yield_now().await;
        }
        let waiting = metrics.num_alive_tasks() - before;
        assert!(waiting <= 1, "{waiting} tasks wait for the start");
        drop(starting);
        let ended = process.wait().await;
        assert_eq!(ended.status, 7);
        assert_eq!(process.stage(), Stage::Ended(ended));
        listening.abort();
    });
}

#[test]
fn case_08_news_that_nobody_hears_are_held_back() {
    run(async {
        let (pod, _heard) = pod().await;
        let taken = (0..10_000).take_while(|_| pod.news.try_send(exited()).is_ok());
        assert_eq!(taken.count(), NEWS);
    });
}

#[test]
fn case_08_a_lack_of_memory_is_told_once_in_a_while() {
    run(async {
        let (pod, _heard) = pod().await;
        (0..10_000).for_each(|_| pod.oom_killed("one"));
        (0..10_000).for_each(|_| pod.oom_killed("none"));
        // Less than a second has passed, or the machine is very slow.
        let waiting = pod.publisher.waiting();
        assert!((1..100).contains(&waiting), "{waiting} events");
        let task = pod.task("one").unwrap();
        let later = Instant::now() + Duration::from_secs(1);
        assert!(task.hear_of_oom(later) && !task.hear_of_oom(later));
    });
}

#[test]
fn case_24_calls_that_wait_for_the_guest_do_not_hold_up_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    let (answer, answered) = std::sync::mpsc::channel();
    runtime.block_on(async {
        let silent = tokio::spawn(blocking(move || answered.recv()));
        // It has the only thread.
        tokio::task::yield_now().await;
        let ended = tokio::time::timeout(Duration::from_secs(10), at_once(|| 7)).await;
        let ended = ended.map_err(|_| "it waits as well");
        // Or this test would never end.
        answer.send(()).unwrap();
        silent.await.unwrap().unwrap().unwrap();
        assert_eq!(ended.unwrap().unwrap(), 7);
    });
}

#[test]
fn where_there_is_no_thread_the_end_has_one_of_those_there_are() {
    // More stack than there are addresses.
    let none = std::thread::Builder::new().stack_size(1 << 50);
    assert_eq!(run(on_thread(none, || 7)).unwrap(), 7);
}
