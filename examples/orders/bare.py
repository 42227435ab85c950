"""The orders service without any auth code: the proxy in front asks Durward and passes on who is calling."""

from fastapi import FastAPI, Header

app = FastAPI()


@app.get("/healthz")
def health():
    return {"ok": True}


@app.get("/orders")
@app.get("/orders/{order}")
def list_orders(order: int = 42, x_durward_principal: str = Header(), x_durward_scopes: str = Header()):
    return {"orders": [{"id": order, "total": "19.90"}], "for": x_durward_principal, "scopes": x_durward_scopes.split()}


@app.get("/orders/{order}/status")
def status(order: int):
    return {"id": order, "status": "shipped"}


@app.post("/orders/{order}/refund")
def refund(order: int, x_durward_principal: str = Header()):
    return {"id": order, "refunded_by": x_durward_principal}
