package doctor

import (
	"context"
	"encoding/json"
	"net/http"
)

// rules asks for the rules that cost more than new ones may, which only this registry's admins are told.
func (p *patient) rules(ctx context.Context) bool {
	if p.opt.Remote.User == "" {
		return true
	}
	answer, text, err := p.do(ctx, http.MethodGet, p.base.JoinPath("/api/v1/costly-rules").String(), nil, nil)
	if err != nil || answer.StatusCode != http.StatusOK {
		return true
	}
	var found struct {
		Rules []struct {
			Owner, Rules string
			Cost, Limit  int
		}
	}
	if json.Unmarshal(text, &found) != nil {
		return true
	}
	l := p.look("rules", "asked which rules cost much to compare names with")
	for _, r := range found.Rules {
		l.warning("replace them by some with fewer stars: every request of these users waits for them", "those of %s, such as %.100q, cost %d, and new ones at most %d", r.Owner, r.Rules, r.Cost, r.Limit)
	}
	l.ok("none does")
	return true
}
