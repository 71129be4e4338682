/* A kernel's share of the work in a team of OpenMP threads. Included after `run`. */

/* In the order of `_Team` in build.py. */
typedef struct {
    const void *call;
    int64_t jobs;
    int backward, failed;
    int (*number)(void), (*size)(void);  /* of the calling thread, of its team */
} Team;

/* What GOMP_parallel calls in every thread. */
void run_share(Team *team) {
    long number = team->number(), size = team->size();
    if (run(team->call, team->jobs * number / size, team->jobs * (number + 1) / size, team->backward)) team->failed = 1;
}
