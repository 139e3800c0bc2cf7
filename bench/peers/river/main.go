// River as its users run it.
//
//	river fill URL JOBS           migrates, and inserts the jobs in batches
//	river drain URL JOBS WORKERS  runs them, and prints the seconds until all are recorded as completed
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const batch = 1000

type args struct {
	Number int    `json:"number"`
	Text   string `json:"text"`
}

func (args) Kind() string { return "bench" }

type receipt struct {
	OK bool `json:"ok"`
}

type worker struct {
	river.WorkerDefaults[args]
}

// Work brings back a small receipt, which River keeps with the job.
func (*worker) Work(ctx context.Context, _ *river.Job[args]) error {
	return river.RecordOutput(ctx, receipt{OK: true})
}

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, arguments []string) error {
	pool, err := pgxpool.New(ctx, arguments[1])
	if err != nil {
		return err
	}
	defer pool.Close()
	count, err := strconv.Atoi(arguments[2])
	if err != nil {
		return err
	}
	if arguments[0] == "fill" {
		return fill(ctx, pool, count)
	}
	workers, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	return drain(ctx, pool, count, workers)
}

func fill(ctx context.Context, pool *pgxpool.Pool, count int) error {
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	client, err := river.NewClient[pgx.Tx](driver, &river.Config{})
	if err != nil {
		return err
	}
	text := strings.Repeat("x", 180)
	for from := 0; from < count; from += batch {
		var params []river.InsertManyParams
		for number := from; number < min(from+batch, count); number++ {
			params = append(params, river.InsertManyParams{Args: args{Number: number, Text: text}})
		}
		if _, err := client.InsertManyFast(ctx, params); err != nil {
			return err
		}
	}
	return nil
}

func drain(ctx context.Context, pool *pgxpool.Pool, count, workers int) error {
	known := river.NewWorkers()
	river.AddWorker(known, &worker{})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		// The default of 100 ms would cap it at ten times the workers a second.
		FetchCooldown: 10 * time.Millisecond,
		Logger:        slog.New(slog.DiscardHandler),
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}},
		Workers:       known,
	})
	if err != nil {
		return err
	}
	// Told once a completion stands in the database.
	completed, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: count,
		Kinds:    []river.EventKind{river.EventKindJobCompleted},
	})
	defer cancel()
	began := time.Now()
	if err := client.Start(ctx); err != nil {
		return err
	}
	for range count {
		<-completed
	}
	seconds := time.Since(began).Seconds()
	if err := client.Stop(ctx); err != nil {
		return err
	}
	text, err := json.Marshal(map[string]float64{"seconds": seconds})
	fmt.Println(string(text))
	return err
}
