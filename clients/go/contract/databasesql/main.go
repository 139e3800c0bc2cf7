// The contract suite's session with database/sql, through the driver that the argument names: pgx or
// postgres (lib/pq).
package main

import (
	"context"
	"database/sql"
	"log"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "github.com/lib/pq"

	"example.com/posthaste"
	"example.com/posthaste/contract/protocol"
)

type session struct {
	db *sql.DB
	tx *sql.Tx
}

func main() {
	db, err := sql.Open(os.Args[1], os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	if err := protocol.Serve(context.Background(), &session{db: db}); err != nil {
		log.Fatal(err)
	}
}

func (s *session) Begin(ctx context.Context) (err error) {
	s.tx, err = s.db.BeginTx(ctx, nil)
	return err
}

// Commit takes a failure for an answer, as an application does that ignores errors: drivers report
// "rolled back instead" in different ways.
func (s *session) Commit(context.Context) error {
	_ = s.tx.Commit()
	return nil
}

func (s *session) Rollback(context.Context) error {
	return s.tx.Rollback()
}

func (s *session) Execute(ctx context.Context, statement string) error {
	_, err := s.tx.ExecContext(ctx, statement)
	return err
}

func (s *session) Tx() posthaste.Tx {
	return posthaste.SQL(s.tx)
}
