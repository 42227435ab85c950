//! A person at the step-up page: a browser without JavaScript, and an authenticator app.

use crate::venv::venv;
use crate::{HttpReply, UpProcess, eventually, request, run};
use std::collections::BTreeMap;
use std::process::Command;

/// An authenticator app, by pyotp.
pub struct AuthenticatorApp {
    secret: String,
}

impl AuthenticatorApp {
    pub fn new(secret: &str) -> Self {
        Self { secret: secret.to_owned() }
    }

    /// The code that is valid `seconds` from now. Waits for the next time step if this one is about to end.
    pub fn code(&self, seconds: i64) -> String {
        eventually("some seconds are left of the step", || (chrono::Utc::now().timestamp() % 30 < 26).then_some(()))
            .unwrap();
        let text = "import pyotp,sys,time; print(pyotp.TOTP(sys.argv[1]).at(int(time.time()) + int(sys.argv[2])))";
        let (code, out, error) =
            run(Command::new(venv("python")).args(["-c", text, &self.secret, &seconds.to_string()]));
        assert_eq!(code, 0, "{error}");
        out.trim().to_owned()
    }
}

/// A visit of the page by HTTP forms.
pub struct FormBrowser<'u> {
    up: &'u UpProcess,
    pub cookie: String,
    pub origin: String,
    pub page: HttpReply,
}

impl<'u> FormBrowser<'u> {
    /// Opens the page with a token, as an app does.
    pub fn open(up: &'u UpProcess, token: &str, fields: &[(&str, &str)]) -> Self {
        let origin = format!("http://localhost:{}", up.listen["tokens"].port());
        let mut browser = Self {
            up,
            cookie: String::new(),
            origin,
            page: HttpReply { status: 0, headers: Vec::new(), body: String::new() },
        };
        let mut all = vec![("subject_token", token), ("audience", "orders-api")];
        all.extend(fields);
        browser.send("/step-up", &all);
        if let Some(cookie) = browser.page.header("set-cookie") {
            browser.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        browser
    }

    /// Posts a form.
    pub fn send(&mut self, path: &str, fields: &[(&str, &str)]) -> &HttpReply {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers = [
            ("Host", self.origin.split("//").last().unwrap()),
            ("Origin", &self.origin),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Cookie", &self.cookie),
        ];
        self.page = request(self.up.listen["tokens"], "POST", path, &headers, &body);
        &self.page
    }

    /// Fills in and posts the form of the page whose action is `path`.
    pub fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> &HttpReply {
        let visit = self.visit();
        assert!(self.page.body.contains(&format!("action=\"{path}\"")), "no form goes to {path}: {}", self.page.body);
        let mut all = vec![("visit", visit.as_str())];
        all.extend(fields);
        self.send(path, &all)
    }

    /// The sealed visit from the forms of the page.
    pub fn visit(&self) -> String {
        self.hidden().remove("visit").unwrap_or_else(|| panic!("no visit: {:?}", self.page))
    }

    /// The hidden fields of the page.
    pub fn hidden(&self) -> BTreeMap<String, String> {
        let fields = self.page.body.split("<input type=\"hidden\" name=\"").skip(1);
        let field = |text: &str| {
            let (name, rest) = text.split_once("\" value=\"")?;
            Some((name.to_owned(), rest.split('"').next()?.to_owned()))
        };
        fields.filter_map(field).collect()
    }

    /// The text between two others on the page.
    pub fn between(&self, before: &str, after: &str) -> String {
        let (_, rest) = self.page.body.split_once(before).unwrap_or_else(|| panic!("no {before}: {}", self.page.body));
        rest.split_once(after).unwrap().0.to_owned()
    }

    /// Enrols an authenticator app; returns it with the recovery codes.
    pub fn enrol(&mut self) -> (AuthenticatorApp, Vec<String>) {
        self.submit("/step-up/totp", &[]);
        let app = AuthenticatorApp::new(&self.between("<code id=\"secret\">", "</code>"));
        // of the previous time step, so that the current code stays unused
        let code = app.code(-30);
        self.submit("/step-up/totp/confirm", &[("otp", &code)]);
        assert_eq!(self.page.status, 200, "{:?}", self.page);
        let codes = self.between("<ol class=\"codes\">", "</ol>");
        let codes = codes.split("</li>").filter_map(|item| item.strip_prefix("<li>")).map(ToOwned::to_owned).collect();
        (app, codes)
    }
}
