// Enqueues with database/sql, inside the application's own transactions.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib"
)

var headers = map[string]string{"note": "say \"hi\" \\ ünï {},\n", "tenant": "acme"}

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()

	committed, err := inTx(ctx, db, (*sql.Tx).Commit)
	if err != nil {
		return err
	}
	if _, err := inTx(ctx, db, (*sql.Tx).Rollback); err != nil {
		return err
	}
	for _, id := range committed {
		fmt.Println(id)
	}
	return nil
}

func inTx(ctx context.Context, db *sql.DB, end func(*sql.Tx) error) ([]string, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	ids, err := createOrder(ctx, tx)
	if err != nil {
		return nil, err
	}
	return ids, end(tx)
}

func createOrder(ctx context.Context, tx *sql.Tx) ([]string, error) {
	if _, err := tx.ExecContext(ctx, "insert into orders (id) values (17)"); err != nil {
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
			[]any{"orders.created", toJSON(map[string]any{"order": 17, "note": "✓ ü"}), "order-17", toJSON(headers)},
		},
		{"select posthaste.enqueue($1)", []any{"orders.pinged"}},
		{
			"select posthaste.enqueue_bytes($1, $2, content_type => $3, correlation_id => $4)",
			[]any{"images.stored", everyByte, "image/png", "request-1"},
		},
		{
			"select posthaste.enqueue_many($1)",
			[]any{toJSON([]map[string]any{
				{"topic": "audit", "payload": map[string]int{"n": 1}},
				// encoding/json writes a []byte as base64.
				{"topic": "audit", "payload_base64": everyByte, "key": "order-17", "headers": headers},
			})},
		},
	}
	var ids []string
	for _, call := range calls {
		answered, err := query(ctx, tx, call.sql, call.args)
		if err != nil {
			return nil, err
		}
		ids = append(ids, answered...)
	}
	return ids, nil
}

func query(ctx context.Context, tx *sql.Tx, call string, args []any) ([]string, error) {
	rows, err := tx.QueryContext(ctx, call, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// toJSON is for maps of strings and numbers, which always marshal.
func toJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}
