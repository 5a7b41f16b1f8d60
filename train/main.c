/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
/* main.c - zero_train: trains language models under ZeRO stages 0 to 3. The process that the user starts checks
 * everything and stays the parent of its ranks. A rank joins the others, agrees with them on the job, and trains. */
#include "train/cores.h"
#include "train/files.h"
#include "train/progress.h"
#include "train/prompt.h"
#include "train/report.h"
#include "train/resume.h"
#include "train/room.h"
#include "train/tensorboard.h"
#include "train/tokens.h"
#include "train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* stop_signal: the signal that asked the run to end after its step, 0: none. training: training has begun; before,
 * SIGINT, SIGTERM and SIGHUP end the run at once. */
static atomic_int stop_signal, training;

/* The deadline of bootstrap (report_clock), 0: bootstrap is complete, or this process waits for no others; and the
 * rank's link to the parent, for the sentence. */
static struct {
    _Atomic double end;
    launch_t *launch;
    int64_t timeout_s;
} meeting;

/* MPI_Init waits for other ranks without a bound, and cannot be interrupted. */
static void watch_meeting(void)
{
    char sentence[200];
    double end = atomic_load(&meeting.end);
    if (end == 0 || report_clock() < end)
        return;
    snprintf(sentence, sizeof sentence,
             "the ranks did not connect within %lld s: start all of them together, or give more time "
             "with --timeout SECONDS",
             (long long)meeting.timeout_s);
    if (meeting.launch == NULL)
        fprintf(stderr, "zero_train: %s\n", sentence);
    launch_failed(meeting.launch, EXIT_USAGE, false, sentence);
    _exit(EXIT_USAGE);
}

/* Waits for signals instead of handlers. A handler runs on the stack of a computing thread, and oneDNN's generated
 * matrix products do not tolerate that: one run in five that a handler interrupted ended with a corrupted heap
 * (kernels/nn/cpu/onednn.c). */
static void *watch(void *arg)
{
    const sigset_t *set = arg;
    const struct timespec second = {.tv_sec = 1};
    for (;;) {
        int number = sigtimedwait(set, NULL, &second);
        watch_meeting();
        if (number <= 0)
            continue;
        /* the second signal ends it at once */
        if (number != SIGUSR1 && (!atomic_load(&training) || atomic_load(&stop_signal) != 0)) {
            sigset_t one;
            progress_clear();
            signal(number, SIG_DFL);
            sigemptyset(&one);
            sigaddset(&one, number);
            pthread_sigmask(SIG_UNBLOCK, &one, NULL);
            raise(number);
        }
        atomic_store(&stop_signal, number);
    }
    return NULL;
}

/* Call this before any other thread starts, because threads inherit the blocked signals. The parent and mpiexec forward
 * signals as SIGUSR1. */
static bool watch_signals(void)
{
    static sigset_t set;
    struct sigaction hangup;
    pthread_t thread;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigaction(SIGHUP, NULL, &hangup) != 0 || hangup.sa_handler != SIG_IGN) /* nohup ignores it */
        sigaddset(&set, SIGHUP);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0 || pthread_create(&thread, NULL, watch, &set) != 0)
        return false;
    pthread_detach(thread);
    return true;
}

/* From here on each signal asks the run to end after its step. */
static void catch_signals(session_t *session)
{
    atomic_store(&training, 1);
    launch_training(session->launch);
}

static int complain(const char *sentence, int code)
{
    progress_clear();
    fprintf(stderr, "zero_train: %s\n", sentence);
    return code;
}

/* The exit status of the output: whether all of it was written. */
static int printed(void)
{
    zero_error_t error;
    return report_written(&error) == ZERO_OK ? EXIT_DONE : complain(error.text, EXIT_FAILED);
}

/* ---- --plan, --explain ------------------------------------------------------------------------------------------ */

static void print_piece(void *ctx, const char *text, size_t bytes)
{
    fwrite(text, 1, bytes, ctx);
}

static zero_status_t look(const job_t *job, zero_error_t *error)
{
    run_t run;
    zero_status_t status = run_plan(&run, job, (int)job->o.stage, error);
    if (status == ZERO_OK && job->o.explain)
        report_adapters(job);
    if (status == ZERO_OK && job->o.explain && (status = zero_explain(run.engine, print_piece, stdout)) != ZERO_OK)
        run_engine_error(&run, status, error);
    if (status == ZERO_OK && job->o.plan)
        status = report_plan(&run, error);
    run_close(&run);
    return status;
}

/* ---- before anything starts ------------------------------------------------------------------------------------- */

/* Prints the effect of each key of --config, once, before ranks start. */
static void print_config(const job_t *job)
{
    if (!job->o.quiet)
        config_print(job->config, stdout);
}

/* ---- a rank ----------------------------------------------------------------------------------------------------- */

/* Whether this rank prints the failure. Without our parent, the rank that failed prints it. If a rank vanished, the
 * lowest remaining rank does. */
static bool speaks(const session_t *session, int rank, zero_status_t status, const zero_error_t *error)
{
    if (session->launch != NULL)
        return false;
    if (status != ZERO_ERR_PEER)
        return true;
    return error->reason == ZERO_REASON_RANK_ENDED && rank == (error->rank == 0 ? 1 : 0);
}

static zero_status_t join(launch_kind_t kind, int64_t timeout_s, launch_t *launch, zero_comm_t **comm,
                          zero_error_t *error)
{
    zero_comm_options_t options;
    zero_status_t status;
    zero_comm_options_init(&options);
    options.timeout_s = (double)timeout_s;
    meeting.launch = launch;
    meeting.timeout_s = timeout_s;
    atomic_store(&meeting.end,
                 report_clock() + (double)timeout_s + 5); /* so that the communicator's own sentence comes first */
    status = kind == LAUNCH_MPI        ? zero_comm_mpi(comm, NULL, &options, error)
             : kind == LAUNCH_TORCHRUN ? zero_comm_torchrun(comm, &options, error)
                                       : zero_comm_self(comm, error);
    atomic_store(&meeting.end, 0);
    if (status == ZERO_OK)
        launch_joined(launch);
    return status;
}

/* Prepares a rank, from a communicator to a job that all ranks agree on, with its device and wire. resolved: the job is
 * already resolved. *speaker: the rank that reports a failure. Collective. */
static zero_status_t prepare(session_t *session, job_t *job, bool resolved, zero_status_t status, int *speaker,
                             zero_error_t *error)
{
    zero_comm_t *comm = session->place.comm;
    zero_error_t why, ignored;
    const int rank = zero_comm_rank(comm);
    const bool by_itself = !resolved && session->launch == NULL;
    int threads = 1, local = 0;
    *speaker = rank;
    /* each rank first checks by itself, then all agree on the result */
    if (status == ZERO_OK && !resolved)
        status = cores_neighbours(comm, &threads, &local, error);
    else if (!resolved && cores_neighbours(comm, &threads, &local, &ignored) != ZERO_OK)
        return status;
    if (!resolved)
        status = prompt_share(&job->o, comm, session->launch, status, error);
    if (status == ZERO_OK && !resolved)
        status = job_resolve(job, zero_comm_size(comm), threads, by_itself, error);
    if (status == ZERO_OK && by_itself)
        status = files_check_log(&job->o, error);
    if (status == ZERO_OK && by_itself && rank == 0 && job->o.tensorboard != NULL)
        status = tensorboard_check(job->o.tensorboard, error);
    if (status == ZERO_OK && by_itself)
        status = files_check_export(&job->o, job_source(job), error);
    if (status == ZERO_OK && by_itself)
        status = resume_check_save(&job->o, error);
    if (status == ZERO_OK && by_itself)
        status = files_check_trace(&job->o, rank, job->world, error);
    if (status == ZERO_OK)
        status = place_device(&session->place, job, local, error);
    status = zero_comm_agree(comm, status, speaker, error);
    if (*speaker < 0)
        *speaker = rank;
    if (status == ZERO_OK && rank == 0 && by_itself)
        print_config(job);
    if (status == ZERO_OK)
        status = job_agree(job, comm, error);
    if (status == ZERO_OK)
        status = place_wire(&session->place, &why, error);
    if (status == ZERO_ERR_MISMATCH || status == ZERO_ERR_UNSUPPORTED)
        *speaker = 0; /* all ranks have the same result */
    if (status == ZERO_OK && why.status != ZERO_OK && rank == 0 && !job->o.quiet)
        fprintf(stderr, "zero_train: warning: ranks communicate through host memory, which is slower: %s\n", why.text);
    return status;
}

/* Reports a failed run to the processes that wait for this rank, and in the log. told: this rank prints it for the
 * user. */
static void tell_failure(session_t *session, zero_status_t status, int code, bool told, const zero_error_t *error)
{
    zero_error_t ignored;
    launch_failed(session->launch, code, status == ZERO_ERR_PEER, error->text);
    if (told)
        complain(error->text, code);
    if (status == ZERO_ERR_TIMEOUT && session->cursor[0] != '\0')
        complain(session->cursor, code);
    if (session->place.comm != NULL)
        zero_comm_abort(session->place.comm, error->text);
    alarm(5); /* ends a hang from here on */
    signal(SIGALRM, SIG_DFL);
    if (session->log != NULL && !session->job->o.compare_stages) {
        log_begin(session->log, "end");
        log_text(session->log, "status", "failed");
        log_text(session->log, "error", error->text);
        log_end(session->log, &ignored); /* if the log itself failed, it gets no end event */
    }
}

/* Fails a successful run whose log, file for TensorBoard or output could not be written. Returns its exit status. */
static int failed_at_last(const session_t *session, const char *sentence)
{
    launch_failed(session->launch, EXIT_FAILED, false, sentence);
    if (session->launch == NULL)
        complain(sentence, EXIT_FAILED);
    return EXIT_FAILED;
}

/* Trains as one rank. status and error are the result of parsing job. resolved: job is already resolved. */
static int work(job_t *job, launch_kind_t kind, int rank, bool resolved, zero_status_t status, zero_error_t *error)
{
    session_t session = {.job = job, .stop = &stop_signal, .catch_signals = catch_signals};
    zero_error_t closing;
    int speaker, code;
    bool watched = watch_signals();
    signal(SIGPIPE, SIG_IGN); /* if the reader is gone, the run ends after a step, as for other signals */
    session.launch = launch_attach(rank);
    zero_error_t joining = {
        .status = ZERO_ERR_SYSTEM,
        .rank = -1,
        .text = "cannot start the thread that waits for signals: raise the limit of processes (ulimit -u)"};
    zero_status_t joined =
        !watched ? ZERO_ERR_SYSTEM : join(kind, job->o.timeout, session.launch, &session.place.comm, &joining);
    if (joined != ZERO_OK) {
        *error = joining;
        status = joined;
        speaker = joined == ZERO_ERR_UNSUPPORTED || joined == ZERO_ERR_MISMATCH
                      ? 0
                      : rank; /* all ranks have the same result */
    } else {
        rank = zero_comm_rank(session.place.comm);
        status = prepare(&session, job, resolved, status, &speaker, error);
        session.checkpoint = job->checkpoint;
        job->checkpoint = NULL;
        if (status == ZERO_OK) {
            status = job->o.compare_stages ? compare_stages(&session, error) : train(&session, error);
            speaker = status == ZERO_ERR_MISMATCH ? 0 : rank;
        }
    }
    code = status == ZERO_OK  ? (session.signal != 0 ? 128 + session.signal : EXIT_DONE)
           : session.training ? EXIT_FAILED
                              : EXIT_USAGE;
    if (status != ZERO_OK && !session.training)
        config_blame(job->config, error);
    if (status != ZERO_OK)
        tell_failure(&session, status, code, speaker == rank && speaks(&session, rank, status, error), error);
    zero_checkpoint_close(session.checkpoint);
    if (session.saves.failure[0] != '\0' && status == ZERO_OK) /* all ranks know it */
        code = rank == 0 ? failed_at_last(&session, session.saves.failure) : EXIT_FAILED;
    if (log_close(session.log, &closing) != ZERO_OK && code == EXIT_DONE)
        code = failed_at_last(&session, closing.text);
    if (tensorboard_close(session.board, &closing) != ZERO_OK && code == EXIT_DONE)
        code = failed_at_last(&session, closing.text);
    if (trace_close(session.trace, &closing) != ZERO_OK && code == EXIT_DONE)
        code = failed_at_last(&session, closing.text);
    if (code == EXIT_DONE && report_written(&closing) != ZERO_OK && !report_unread())
        code = failed_at_last(&session, closing.text);
    if (code == EXIT_DONE || code > 128)
        launch_ended(session.launch, code);
    job_close(job);
    place_close(&session.place);
    /* the parent reads how a rank ended from the shared memory; mpiexec would stop the other ranks at the first one
     * that exits with a signal's status */
    if (session.launch != NULL && code > 128)
        code = EXIT_DONE;
    launch_detach(session.launch);
    return code;
}

/* ---- the process that the user started -------------------------------------------------------------------------- */

static int start(job_t *job, char *const *argv, zero_status_t status, zero_error_t *error)
{
    int world = job_ranks(&job->o), code;
    int threads = cores_threads(world);
    if (status == ZERO_OK && world == 1 && (job->o.threads > 0 ? job->o.threads : threads) > 1)
        launch_restart(argv);
    if (status == ZERO_OK)
        status = prompt_read(&job->o, error);
    const options_t given = job->o;
    if (status == ZERO_OK)
        status = job_resolve(job, world, threads, true, error);
    if (status == ZERO_OK && world > 1)
        status = files_check_passed(&job->o, error);
    if (status == ZERO_OK)
        status = files_check_log(&job->o, error);
    if (status == ZERO_OK && job->o.tensorboard != NULL)
        status = tensorboard_check(job->o.tensorboard, error);
    if (status == ZERO_OK)
        status = files_check_export(&job->o, job_source(job), error);
    if (status == ZERO_OK)
        status = resume_check_save(&job->o, error);
    if (status == ZERO_OK)
        status = files_check_trace(&job->o, -1, world, error);
    if (status == ZERO_OK)
        status = room_check(&given, job, error);
    if (status == ZERO_OK)
        print_config(job);
    launch_plan_t plan = {.world = world,
                          .pipe = (int)job->o.pipe,
                          .replicas = (int)job->o.replicas,
                          .context = (int)job->o.context,
                          .tensor = (int)job->o.tensor,
                          .threads = (int)job->o.threads,
                          .cores = cores_here(),
                          .timeout_s = (double)job->o.timeout,
                          .argv = argv,
                          .prompt = job->o.prompt_text,
                          .prompt_bytes = job->o.prompt_bytes};
    if (status != ZERO_OK) {
        config_blame(job->config, error);
        code = complain(error->text, EXIT_USAGE);
    } else if ((code = printed()) == EXIT_DONE && world == 1)
        return work(job, LAUNCH_NONE, 0, true, ZERO_OK, error);
    else if (code == EXIT_DONE) {
        zero_checkpoint_close(job->checkpoint); /* each rank opens it itself */
        job->checkpoint = NULL;
        code = launch_ranks(&plan);
    }
    job_close(job);
    return code;
}

/* Does what the options in *job ask for. status and error are the result of reading them. */
static int obey(job_t *job, char *const *argv, zero_status_t status, zero_error_t *error)
{
    int rank, world;
    launch_kind_t kind = launch_detect(&rank, &world);
    bool looks = status == ZERO_OK && (job->o.help || job->o.version || job->o.explain || job->o.plan);
    if (looks && rank != 0)
        return EXIT_DONE; /* one rank of a launcher prints for all */
    if (looks && job->o.help) {
        options_help(stdout);
        return printed();
    }
    if (looks && job->o.version) {
        printf("zero_train %s\n", zero_version());
        return printed();
    }
    if (status == ZERO_OK && job->o.tokenize != NULL) {
        if (rank > 0)
            return EXIT_DONE;
        bool writes = false;
        status = tokens_file(&job->o, &writes, error);
        if (status == ZERO_OK)
            return printed();
        config_blame(job->config, error);
        return complain(error->text, writes && status == ZERO_ERR_IO ? EXIT_FAILED : EXIT_USAGE);
    }
    if (looks) {
        int planned = job->o.ranks <= 0 && world > 0 ? world : job_ranks(&job->o);
        status = prompt_read(&job->o, error);
        if (status == ZERO_OK)
            status = job_resolve(job, planned, cores_threads(planned), true, error);
        if (status == ZERO_OK)
            print_config(job);
        if (status == ZERO_OK)
            status = look(job, error);
        job_close(job);
        if (status != ZERO_OK)
            config_blame(job->config, error);
        return status == ZERO_OK ? printed() : complain(error->text, EXIT_USAGE);
    }
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (kind == LAUNCH_NONE && tasks != NULL && atoi(tasks) > 1)
        return complain(
            "srun started several tasks without PMIx, so that they cannot find each other: give srun --mpi=pmix",
            EXIT_USAGE);
    return kind == LAUNCH_NONE ? start(job, argv, status, error) : work(job, kind, rank, false, status, error);
}

/* Opens missing standard descriptors, so that no file of ours gets their numbers. Writing to a closed standard output
 * still fails. */
static void open_standard(void)
{
    for (int file = STDIN_FILENO; file <= STDERR_FILENO; file++)
        if (fcntl(file, F_GETFD) < 0 && open("/dev/null", file == STDERR_FILENO ? O_WRONLY : O_RDONLY) < 0)
            _exit(EXIT_FAILED);
}

/* Whether only this process reads the files that options name. */
static bool alone(const options_t *o)
{
    return o->plan || o->explain || o->tokenize != NULL ||
           (launch_detect(NULL, NULL) == LAUNCH_NONE && job_ranks(o) == 1);
}

int main(int argc, char **argv)
{
    job_t job = {.world = 0};
    config_t *config = NULL;
    zero_error_t error = {0};
    omp_set_dynamic(0); /* --threads sets the number of threads: OpenMP must not use fewer on a busy machine */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0); /* see zero_device_cuda; the ranks inherit it */
    open_standard();
    options_init(&job.o);
    zero_status_t status = options_parse(&job.o, argc, argv, &error);
    const bool runs = status == ZERO_OK && !job.o.help && !job.o.version;
    if (runs)
        status = config_read(&config, &job.o, &error);
    if (runs && status == ZERO_OK && !alone(&job.o)) /* --config may set the number of ranks and their inputs */
        status = files_check_shared(&job.o, &error);
    job.config = config;
    int code = obey(&job, argv, status, &error);
    config_close(config);
    prompt_free(&job.o);
    return code;
}
