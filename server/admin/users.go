package admin

import (
	"context"
	"net/http"
	"net/netip"
	"strings"

	"registry/server/auth"
	"registry/server/registry"
)

func getUsers(ctx context.Context, c Call) (Answer, error) {
	return paged(c, "users", func(p registry.Page, limit int) ([]auth.User, error) { return c.Auth.Users(ctx, p.Last, limit) },
		func(u auth.User) string { return u.Name })
}

// newUser has two words for the name because other registries have the second.
type newUser struct {
	Name     string `json:"name"`
	Username string `json:"username"`
	Password string `json:"password"`
	Admin    bool   `json:"admin"`
}

func postUser(ctx context.Context, c Call, in newUser) (Answer, error) {
	if !c.Auth.MayRegister(c.Caller, in.Admin) {
		return Answer{}, registry.Denied.With(nil)
	}
	if in.Name != "" && in.Username != "" {
		return Answer{}, registry.RequestInvalid.With("name and username are the same: one is enough")
	}
	name := in.Name + in.Username
	if !c.Caller.IsAdmin() && c.Registry.HasUploads(name) {
		return Answer{}, registry.Taken.With(name)
	}
	if err := c.Auth.CreateUser(ctx, c.By, name, in.Password, in.Admin, c.Caller.IsAdmin()); err != nil {
		return Answer{}, err
	}
	u, err := c.Auth.User(ctx, name)
	return Answer{Status: http.StatusCreated, Body: u}, err
}

func getUser(ctx context.Context, c Call) (Answer, error) {
	u, err := c.Auth.User(ctx, c.Name)
	return found(u), err
}

func deleteUser(ctx context.Context, c Call) (Answer, error) {
	if c.Name == c.Caller.Name {
		return Answer{}, registry.Conflict.With("users cannot remove themselves")
	}
	return done(), c.Auth.DeleteUser(ctx, c.By, c.Name)
}

type newPassword struct {
	Password string `json:"password"`
	Old      string `json:"old"`
}

// putPassword is for the user, who says the old password, and for admins.
func putPassword(ctx context.Context, c Call, in newPassword) (Answer, error) {
	if !c.Caller.IsAdmin() {
		if err := c.knows(ctx, in.Old); err != nil {
			return Answer{}, err
		}
	}
	return done(), c.Auth.SetPassword(ctx, c.By, c.Name, in.Password)
}

// knows returns Denied unless the call is about its caller and has their password. A token of theirs is not enough.
func (c Call) knows(ctx context.Context, password string) error {
	if c.Name != c.Caller.Name {
		return registry.Denied.With(nil)
	}
	from, _ := netip.ParseAddr(c.By.Address)
	who, err := c.Auth.Login(ctx, c.Name, password, from)
	if registry.Unauthorized.Is(err) || err == nil && !who.IsUser() {
		return registry.Denied.With("the old password is not right")
	}
	return err
}

func putDisabled(ctx context.Context, c Call, in struct {
	Disabled *bool `json:"disabled"`
}) (Answer, error) {
	disabled, err := required(in.Disabled, "disabled")
	if err != nil {
		return Answer{}, err
	}
	return done(), c.Auth.SetDisabled(ctx, c.By, c.Name, disabled)
}

func putAdmin(ctx context.Context, c Call, in struct {
	Admin *bool `json:"admin"`
}) (Answer, error) {
	admin, err := required(in.Admin, "admin")
	if err != nil {
		return Answer{}, err
	}
	return done(), c.Auth.SetAdmin(ctx, c.By, c.Name, admin)
}

// owner is whose tokens a call is about: the caller's, or, for admins, of whom the query says.
func (c Call) owner() (string, error) {
	user := c.Query.Get("user")
	if user == "" || user == c.Caller.Name {
		return c.Caller.Name, nil
	}
	if !c.Caller.IsAdmin() {
		return "", registry.Denied.With(nil)
	}
	return user, nil
}

func getTokens(ctx context.Context, c Call) (Answer, error) {
	user, err := c.owner()
	if err != nil {
		return Answer{}, err
	}
	return paged(c, "tokens", func(p registry.Page, limit int) ([]auth.APIToken, error) {
		return c.Auth.APITokens(ctx, user, auth.APIToken{User: user, Name: p.Last}, limit)
	}, func(t auth.APIToken) string { return t.Name })
}

type newToken struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
	TTL    string   `json:"ttl"`
}

func postToken(ctx context.Context, c Call, in newToken) (Answer, error) {
	user, err := c.owner()
	if err != nil {
		return Answer{}, err
	}
	lifetime, err := auth.ParseLifetime(in.TTL)
	if err != nil {
		return Answer{}, registry.RequestInvalid.With("ttl: " + err.Error())
	}
	text, err := c.Auth.CreateAPIToken(ctx, c.By, user, in.Name, strings.Join(in.Scopes, " "), lifetime)
	return Answer{Status: http.StatusCreated, Body: map[string]string{"user": user, "name": in.Name, "token": text}}, err
}

func deleteToken(ctx context.Context, c Call) (Answer, error) {
	user, err := c.owner()
	if err != nil {
		return Answer{}, err
	}
	return done(), c.Auth.DeleteAPIToken(ctx, c.By, user, c.Name)
}

// getRefreshTokens lists the logins that go on without the password.
func getRefreshTokens(ctx context.Context, c Call) (Answer, error) {
	user, err := c.owner()
	if err != nil {
		return Answer{}, err
	}
	return paged(c, "refreshTokens", func(p registry.Page, limit int) ([]auth.RefreshToken, error) {
		return c.Auth.RefreshTokens(ctx, user, p.Last, limit)
	}, func(t auth.RefreshToken) string { return t.ID })
}

func deleteRefreshToken(ctx context.Context, c Call) (Answer, error) {
	user, err := c.owner()
	if err != nil {
		return Answer{}, err
	}
	return done(), c.Auth.DeleteRefreshToken(ctx, c.By, user, c.Name)
}
