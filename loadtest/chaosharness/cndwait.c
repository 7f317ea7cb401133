/* libfaketime leaves cnd_timedwait of C11 alone, so a deadline of the false clock would be met by the right one: a wait of
   a quarter of a second would last an hour. pthread_cond_timedwait, the same call by its other name, it does translate. */
#include <errno.h>
#include <pthread.h>
#include <threads.h>

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    switch (pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until)) {
    case 0:
        return thrd_success;
    case ETIMEDOUT:
        return thrd_timedout;
    default:
        return thrd_error;
    }
}
