// Enqueues with pgx, inside the application's own transactions.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

var (
	errRollback = errors.New("roll back")
	headers     = map[string]string{"note": "say \"hi\" \\ ünï {},\n", "tenant": "acme"}
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)

	var committed []string
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		committed, err = createOrder(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := createOrder(ctx, tx); err != nil {
			return err
		}
		return errRollback
	})
	if !errors.Is(err, errRollback) {
		return err
	}
	for _, id := range committed {
		fmt.Println(id)
	}
	return nil
}

func createOrder(ctx context.Context, tx pgx.Tx) ([]string, error) {
	if _, err := tx.Exec(ctx, "insert into orders (id) values (17)"); err != nil {
		return nil, err
	}
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	calls := []struct {
		sql  string
		args []any
	}{
		{
			"select posthaste.enqueue($1, $2, key => $3, headers => $4)",
			[]any{"orders.created", map[string]any{"order": 17, "note": "✓ ü"}, "order-17", headers},
		},
		{"select posthaste.enqueue($1)", []any{"orders.pinged"}},
		{
			"select posthaste.enqueue_bytes($1, $2, content_type => $3, correlation_id => $4)",
			[]any{"images.stored", everyByte, "image/png", "request-1"},
		},
		{
			"select posthaste.enqueue_many($1)",
			[]any{[]map[string]any{
				{"topic": "audit", "payload": map[string]int{"n": 1}},
				// encoding/json writes a []byte as base64.
				{"topic": "audit", "payload_base64": everyByte, "key": "order-17", "headers": headers},
			}},
		},
	}
	var ids []string
	for _, call := range calls {
		rows, err := tx.Query(ctx, call.sql, call.args...)
		if err != nil {
			return nil, err
		}
		answered, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		ids = append(ids, answered...)
	}
	return ids, nil
}
